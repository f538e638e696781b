"""What the runs left, read back from their folders, and as the lines of one CSV file a table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.paper.jobs import Run, run_folder
from benchmarks.paper.options import Options
from benchmarks.paper.run import SCORE
from benchmarks.paper.tables import Cell, Exhibit
from sfda_engine.data.classes import class_set


@dataclass(frozen=True)
class Outcome:
    """One seed of one cell."""

    cell: Cell
    seed: int
    folder: Path
    content: dict[str, Any]

    @property
    def score(self) -> dict[str, Any]:
        """Of the target or, in Table 4, of the source; percent."""
        return self.content["scores"]["source" if self.cell.held_out_source else "target"]

    @property
    def miou13(self) -> float | None:
        """Mean over those of SYNTHIA's 13 classes that have a labelled pixel; None where the network has others."""
        iou, names = self.score["iou"], class_set("cityscapes13").names
        known = [iou[name] for name in names if iou.get(name) is not None]
        return statistics.fmean(known) if known and iou.keys() >= set(names) else None


def outcomes(exhibit: Exhibit, seeds: Iterable[int], options: Options) -> list[Outcome]:
    """The runs of an exhibit that are done, cell by cell."""
    found = []
    for cell in exhibit.cells:
        for seed in seeds:
            folder = run_folder(Run(cell.job, seed), options)
            if (folder / SCORE).is_file():
                found.append(Outcome(cell, seed, folder, json.loads((folder / SCORE).read_text())))
    return found


def lines_of(exhibit: Exhibit, found: Sequence[Outcome]) -> list[dict[str, Any]]:
    """A line for each cell and seed."""
    classes = list(dict.fromkeys(name for outcome in found for name in outcome.score["iou"]))
    return [_line(exhibit, outcome, classes) for outcome in found]


def _line(exhibit: Exhibit, outcome: Outcome, classes: list[str]) -> dict[str, Any]:
    cell, content, score = outcome.cell, outcome.content, outcome.score
    printed = cell.printed.values if cell.printed is not None else {}
    return {
        "exhibit": exhibit.name,
        "row": cell.row,
        "column": cell.column,
        "network": cell.job.network,
        "source_free": "" if cell.source_free is None else "yes" if cell.source_free else "no",
        "method": cell.job.method,
        "changes": json.dumps(dict(cell.job.changes)),
        "seed": outcome.seed,
        "mIoU": f"{score['miou']:.3f}",
        "paper_mIoU": printed.get("mIoU", ""),
        "mIoU13": "" if outcome.miou13 is None else f"{outcome.miou13:.3f}",
        "paper_mIoU13": printed.get("mIoU13", ""),
        "mIoU_training_size": f"{score['miou_training_size']:.3f}",
        "PA": f"{score['pixel_accuracy']:.3f}",
        "mPA": f"{score['mean_pixel_accuracy']:.3f}",
        **{name: "" if (value := score["iou"].get(name)) is None else f"{value:.3f}" for name in classes},
        "steps": content["steps"],
        "hours": f"{content['seconds'] / 3600:.4f}",
        "peak_memory_mb": content["peak_memory_mb"],
        "settings": content["settings"],
        "note": content["note"],
        "device": content["device"],
        "threads": content["threads"],
        "versions": content["versions"],
        "commit": content["commit"],
        "time": content["time"],
        "run": outcome.folder.name,
    }
