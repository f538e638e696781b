"""One model of one run with its mIoU and all its scores, and the CSV file that holds them."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

from sfda_engine.errors import UserError
from sfda_engine.files import write_text


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


PLAIN = [one for one in fields(ScoredModel) if one.name != "scores"]
PARSERS = {"str": str, "int": int, "float": float}


def read_rows(path: Path) -> list[ScoredModel]:
    """The rows of a CSV, none where there is no file. UserError where the file is no table of these rows."""
    if not path.exists():
        return []
    names = [one.name for one in PLAIN]
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if list(reader.fieldnames or ())[: len(names)] != names:
            raise UserError(f"{path} is not a table of this benchmark (its first line differs); give another --output")
        try:
            return [_parse(line, names) for line in reader]
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} holds a row that cannot be read ({error!r}); remove the line") from error


def _parse(line: dict[str, str], names: list[str]) -> ScoredModel:
    plain = {one.name: PARSERS[str(one.type)](line[one.name]) for one in PLAIN}
    return ScoredModel(**plain, scores={name: float(text) for name, text in line.items() if name not in names})


def append_rows(path: Path, rows: Iterable[ScoredModel]) -> None:
    """Write the table with the rows of one more run, whole or not at all."""
    every = [*read_rows(path), *rows]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*(one.name for one in PLAIN), *every[0].scores], lineterminator="\n")
    writer.writeheader()
    for row in every:
        plain = dataclasses.asdict(row)
        writer.writerow({**{k: v for k, v in plain.items() if k != "scores"}, **_rounded(row.scores)})
    write_text(path, text.getvalue())


def _rounded(scores: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.6g}" for name, value in scores.items()}
