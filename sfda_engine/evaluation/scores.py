"""Scores from confusion counts: IoU per class, mIoU, PA, mPA; as a table for people and as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sfda_engine.data.classes import expand_subset
from sfda_engine.errors import UserError


@dataclass(frozen=True)
class Scores:
    """Scores of one model in percent; a class without a labelled pixel has IoU None and does not count."""

    miou: float
    pixel_accuracy: float
    mean_pixel_accuracy: float
    iou: dict[str, float | None]


@dataclass(frozen=True)
class Evaluation:
    """Scores over `frames` frames: logits upsampled to the labels' own size, and to the size that the model sees.

    `as_deployed`, where it was asked for: labels decided at the size that the model sees, then brought to the labels'
    own size by nearest neighbor, as the runtime writes them.
    """

    own_size: Scores
    training_size: Scores
    frames: int
    as_deployed: Scores | None = None


def check_subset(subset: tuple[str, ...] | None, names: tuple[str, ...]) -> None:
    """UserError where `subset` names something that is no class of the model."""
    unknown = [name for name in expand_subset(subset or ()) if name not in names]
    if unknown:
        raise UserError(f"evaluate.subset names {unknown[0]!r}, which is no class of the model: {', '.join(names)}")


def scores_of(confusion: Tensor, names: tuple[str, ...], subset: tuple[str, ...] | None = None) -> Scores:
    """Scores from confusion counts (K, K), rows = label, columns = prediction; means over labelled classes.

    `subset` names the classes or class sets that count towards the means. Raises UserError where one is unknown.
    """
    check_subset(subset, names)
    counts = confusion.double()
    hits, labelled, predicted = counts.diag(), counts.sum(1), counts.sum(0)
    iou = 100 * hits / (labelled + predicted - hits).clamp_min(1)
    accuracy = 100 * hits / labelled.clamp_min(1)
    chosen = names if subset is None else expand_subset(subset)
    counted = (labelled > 0) & torch.tensor([name in chosen for name in names])
    if not counted.any():
        raise UserError("no labelled pixel of any counted class; check the labels (255 = ignore) and evaluate.subset")
    return Scores(
        miou=iou[counted].mean().item(),
        pixel_accuracy=(100 * hits.sum() / labelled.sum()).item(),
        mean_pixel_accuracy=accuracy[counted].mean().item(),
        iou={
            name: value if seen else None
            for name, value, seen in zip(names, iou.tolist(), (labelled > 0).tolist(), strict=True)
        },
    )


def scoring_failed(error: UserError, folder: Path) -> UserError:
    """What to say where labels cannot be scored that nothing opened before the last step: the run is not lost."""
    return UserError(
        f"{str(error).rstrip('.')}. Training is done and its weights are in {folder}: put this right and repeat the "
        f"command with --run.output {folder} --run.resume true, which only scores"
    )


def as_json(result: Evaluation) -> dict[str, Any]:
    """An evaluation as strict JSON."""
    deployed = result.as_deployed
    return {
        "miou": result.own_size.miou,
        "miou_training_size": result.training_size.miou,
        "pixel_accuracy": result.own_size.pixel_accuracy,
        "mean_pixel_accuracy": result.own_size.mean_pixel_accuracy,
        "iou": result.own_size.iou,
        "evaluated_frames": result.frames,
    } | ({} if deployed is None else {"miou_as_deployed": deployed.miou})


def print_scores(columns: dict[str, Evaluation], console: Console) -> None:
    """One column a model, one row a class, means below; percent, at the labels' own size."""
    table = Table(title="IoU in percent, at the labels' own size")
    table.add_column("class")
    for title in columns:
        table.add_column(title, justify="right")
    for name in next(iter(columns.values())).own_size.iou:
        values = [column.own_size.iou[name] for column in columns.values()]
        table.add_row(name, *["-" if value is None else f"{value:.1f}" for value in values])
    table.add_section()
    rows: dict[str, Callable[[Evaluation], str]] = {
        "mIoU": lambda e: f"{e.own_size.miou:.2f}",
        "mIoU, as deployed (gap)": _deployed_and_gap,
        "mIoU, training size": lambda e: f"{e.training_size.miou:.2f}",
        "pixel accuracy": lambda e: f"{e.own_size.pixel_accuracy:.2f}",
        "mean pixel accuracy": lambda e: f"{e.own_size.mean_pixel_accuracy:.2f}",
    }
    for title, cell in rows.items():
        cells = [cell(column) for column in columns.values()]
        if any(cells):
            table.add_row(title, *cells)
    console.print(table)


def _deployed_and_gap(result: Evaluation) -> str:
    if result.as_deployed is None:
        return ""
    return f"{result.as_deployed.miou:.2f} ({result.as_deployed.miou - result.own_size.miou:+.2f})"
