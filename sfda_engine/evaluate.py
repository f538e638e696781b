"""ENTRY `python -m sfda_engine.evaluate`: the only reader of target labels. IoU per class, mIoU, PA, mPA."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_confusion_matrix

from sfda_engine.config.loader import parse_command, require_data, resolve_weights
from sfda_engine.config.schema import Config, EvaluateConfig
from sfda_engine.data.classes import expand_subset
from sfda_engine.data.datasets import open_evaluate
from sfda_engine.data.folder import IGNORE
from sfda_engine.data.images import resize_labels
from sfda_engine.data.loaders import EvaluationFrames, LabelledItem
from sfda_engine.data.preflight import look_at
from sfda_engine.data.readers import LabelledImages
from sfda_engine.distributed.collectives import leave, processes, speaks
from sfda_engine.errors import UserError
from sfda_engine.evaluation.sliding_window import Window, check_windows, window_logits
from sfda_engine.exit_codes import run_entry
from sfda_engine.files import write_json
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.segmenter import upsample
from sfda_engine.models.weights import WeightsInfo
from sfda_engine.pipelines.build import check_forward, load_segmenter, make_accelerator, new_folder

BATCH = 8
"""Frames that are scored at a time, by all processes together; rounded up to a share for each."""


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


def collate(items: list[LabelledItem]) -> dict[str, Any]:
    """Images stacked; labels kept as a list, since every frame may have a size of its own."""
    return {
        "images": torch.stack([item["image"] for item in items]),
        "labels": [item["label"] for item in items],
    }


@torch.no_grad()
def confusion_counts(
    model: nn.Module,
    preprocess: Preprocess,
    loader: DataLoader,
    classes: int,
    accelerator: Accelerator,
    *,
    as_deployed: bool = False,
    window: Window | None = None,
) -> tuple[Tensor, int]:
    """Confusion counts (2, K, K) int64 at the labels' own size and at the images', and the number of frames.

    `as_deployed` appends a third one, see `Evaluation`. Counts are kept per image and gathered over processes, so that
    padding of the last batch is not counted twice.
    """
    model.eval()
    totals = torch.zeros(2 + as_deployed, classes, classes, dtype=torch.int64)
    frames = 0
    for batch in loader:
        images, labels = batch["images"], batch["labels"]
        with accelerator.autocast():
            seen = preprocess(images)
            logits = window_logits(model, seen, window) if window else model(seen).logits.float()
        counts = torch.stack(
            [
                _image_counts(one[None], label, images.shape[-2:], classes, as_deployed)
                for one, label in zip(logits, labels, strict=True)
            ]
        )
        gathered = accelerator.gather_for_metrics(counts)
        totals += gathered.sum(0).cpu()
        frames += len(gathered)
    return totals, frames


def _image_counts(logits: Tensor, label: Tensor, size: torch.Size, classes: int, as_deployed: bool) -> Tensor:
    label = label.to(logits.device)
    small = functional.interpolate(label[None, None].float(), tuple(size), mode="nearest-exact")[0, 0].long()
    own, seen = (upsample(logits, (truth.shape[0], truth.shape[1])).argmax(1)[0] for truth in (label, small))
    pairs = [(own, label), (seen, small)]
    if as_deployed:
        pairs.append((resize_labels(seen, (label.shape[1], label.shape[0])), label))
    return torch.stack(
        [
            multiclass_confusion_matrix(prediction, truth, classes, ignore_index=IGNORE, validate_args=False)
            for prediction, truth in pairs
        ]
    )


def evaluate_model(
    model: nn.Module,
    info: WeightsInfo,
    config: EvaluateConfig,
    size: tuple[int, int],
    accelerator: Accelerator,
) -> Evaluation:
    """Score a segmenter on labelled frames resized to `size` (width, height). Raises UserError on bad labels."""
    images = open_evaluate(config, class_names=info.class_names, size=size)
    look_at(images, same_size=False)
    window = window_of(config)
    return evaluate_images(
        model, info, images, size, accelerator, config.subset, as_deployed=config.as_deployed, window=window
    )


def window_of(config: EvaluateConfig) -> Window | None:
    """The sliding window that is asked for; None = whole frames."""
    return Window(*config.window, config.window_overlap) if config.window else None


def evaluate_images(
    model: nn.Module,
    info: WeightsInfo,
    images: LabelledImages,
    size: tuple[int, int],
    accelerator: Accelerator,
    subset: tuple[str, ...] | None = None,
    *,
    as_deployed: bool = False,
    window: Window | None = None,
) -> Evaluation:
    """Score a segmenter on an opened data set, preprocessed as `info` says, by sliding windows where one is given."""
    batch_size = -(-BATCH // processes()) * processes()
    loader = DataLoader(EvaluationFrames(images, size=size), batch_size=batch_size, collate_fn=collate)
    preprocess = Preprocess(info.normalization, info.exposure).to(accelerator.device)
    model, loader = model.to(accelerator.device), accelerator.prepare(loader)
    counts, frames = confusion_counts(
        model, preprocess, loader, info.num_classes, accelerator, as_deployed=as_deployed, window=window
    )
    own, training, *deployed = (scores_of(confusion, info.class_names, subset) for confusion in counts)
    return Evaluation(own, training, frames, *deployed)


def scoring_failed(error: UserError, folder: Path) -> UserError:
    """What to say where labels cannot be scored that nothing opened before the last step: the run is not lost."""
    return UserError(
        f"{str(error).rstrip('.')}. Training is done and its weights are in {folder}: put this right and repeat the "
        f"command with --run.output {folder} --run.resume true, which only scores"
    )


def evaluate(config: Config) -> Evaluation:
    """Score `model.weights` on the frames of section `evaluate`; writes evaluation.json where run.output is named."""
    require_data(config, "evaluate")
    assert config.evaluate is not None
    accelerator = make_accelerator(config, None)
    model, info = load_segmenter(config.model)
    check_subset(config.evaluate.subset, info.class_names)
    check_forward(model, config.target.size)
    if window := window_of(config.evaluate):
        check_windows(model, window)
    output = config.run.output
    with nullcontext() if output is None else new_folder(Path(output).expanduser()) as folder:
        result = evaluate_model(model, info, config.evaluate, config.target.size, accelerator)
        if accelerator.is_main_process and folder is not None:
            write_json(folder / "evaluation.json", as_json(result))
    return result


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


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, evaluate, print the table."""
    config = parse_command(
        sys.argv[1:] if argv is None else argv,
        prog="python -m sfda_engine.evaluate",
        description="Score a segmentation model on labelled frames: IoU per class, mIoU, PA, mPA.",
        default_config="demo",
    )
    result = evaluate(config)
    if speaks():
        print_scores({str(resolve_weights(config.model.weights or "").name): result}, Console())
        print(json.dumps(as_json(result)))
    leave()
    return 0


if __name__ == "__main__":
    run_entry(main)
