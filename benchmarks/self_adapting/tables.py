"""The scores as CSV and Markdown."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

from benchmarks.common.csv_file import write_csv
from benchmarks.common.markdown import table
from benchmarks.self_adapting.score import Score
from sfda_engine.files import write_text
from sfda_runtime import Adaptation


def write_scores(stem: Path, scores: list[Score]) -> None:
    """CSV and Markdown: settings as one row each over the scenes, then the given models."""
    write_csv(stem.with_suffix(".csv"), [dataclasses.asdict(one) for one in scores])
    tried = [one for one in scores if one.model == "demo_source"]
    chosen = Adaptation()
    lines = [
        "# Self-adapting models",
        "",
        "mIoU in percent at the labels' own size of labels that `sfda_runtime` gave, one frame at a time in stream",
        f"order. Defaults: normalize {chosen.normalize}, update {chosen.update}, chosen on the first table.",
        "",
        "## Settings, demo_source (trained on day) on procedural scenes",
        *settings_table(tried),
        "",
        "`changing` is day, night, rain, fog, half of each stream, from one light to the next without a break.",
        "",
        "## Models at the defaults",
        *models_table([one for one in scores if one not in tried]),
    ]
    write_text(stem.with_suffix(".md"), "\n".join(lines) + "\n")


def settings_table(scores: list[Score]) -> list[str]:
    """Markdown: a row for each setting, a column for each stream, the mean last."""
    streams = list(dict.fromkeys(one.stream for one in scores))
    body = []
    for _, group in itertools.groupby(scores, lambda one: (one.normalize, one.update)):
        row = list(group)
        weights = ("plain", "") if row[0].normalize is None else (str(row[0].normalize), str(row[0].update))
        values = [f"{one.miou:.1f}" for one in row]
        mean = sum(one.miou for one in row) / len(row)
        body.append([*weights, *values, f"{mean:.1f}", str(sum(one.rejected for one in row))])
    return table(["normalize", "update", *streams, "mean", "rejected"], body)


def models_table(scores: list[Score]) -> list[str]:
    """Markdown: a row for each model, plain and self-adapting."""
    body = []
    for one in scores:
        runs = "plain" if one.normalize is None else "self-adapting"
        figures = (f"{one.miou:.1f}", f"{one.miou_second_half:.1f}", str(one.rejected))
        body.append([one.stream, str(one.frames), one.model, runs, *figures])
    return table(["stream", "frames", "model", "runs", "mIoU", "second half", "rejected"], body)
