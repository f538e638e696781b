"""One model of one run with its mIoU and all its scores, and the CSV file that holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common.csv_file import read_csv, write_csv


@dataclass(frozen=True, kw_only=True)
class ScoredModel:
    """A snapshot of a run, or one of the two models that every run can fall back to."""

    run: str
    domain: str
    seed: int
    settings: str
    """What must be equal for rows to be compared: steps, size, batch, exposure, source network."""
    model: str
    """source (as shipped), bn_warm_start or snapshot."""
    step: int
    """Updates that a snapshot has behind it; 0 for the other two."""
    miou: float
    """Percent, at the labels' own size, on held-out frames."""
    scoring_seconds: float
    """Processor time of all scores of this model, on one thread."""
    commit: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    """By `sfda_engine.judge.scores.score`, on frames that adaptation saw; NaN where the weights had diverged."""

    @property
    def key(self) -> tuple[str, str, int, str]:
        """The run it belongs to."""
        return self.run, self.domain, self.seed, self.settings


def read_rows(path: Path) -> list[ScoredModel]:
    """The rows of a CSV, none where there is no file; UserError where it is no table of these rows."""
    return read_csv(path, ScoredModel, rest="scores")


def append_rows(path: Path, rows: Iterable[ScoredModel]) -> None:
    """Write the table with the rows of one more run, whole or not at all; scores in six digits."""
    write_csv(path, [_line(row) for row in [*read_rows(path), *rows]])


def _line(row: ScoredModel) -> dict[str, Any]:
    plain = dataclasses.asdict(row)
    scores = plain.pop("scores")
    return plain | {name: f"{value:.6g}" for name, value in scores.items()}
