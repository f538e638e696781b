"""The rows of the table, their CSV file and the Markdown made of it."""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sfda_engine.errors import UserError
from sfda_engine.files import write_text


@dataclass(frozen=True, kw_only=True)
class PeerRow:
    """One run of one method on one domain; mIoU in percent at the labels' own size, on held-out frames."""

    method: str
    domain: str
    seed: int
    settings: str
    """What must be equal for rows to be compared: steps, size, batch, exposure, source network."""
    source_free: bool
    """Whether the method can do without source data."""
    miou_source: float
    """The source network as shipped, without exposure correction."""
    miou_bn_warm_start: float
    miou_final: float
    """After the last step: the figure that counts."""
    miou_best: float
    """ORACLE: the best of the snapshots, the last among them, chosen by the labels. No method can have it."""
    best_step: int
    steps: int
    """Steps made."""
    seconds: float
    """Wall clock of the method alone."""
    idle_seconds: float
    """As an idle machine would count them, see `run.idle_clock`: what the limit counts."""
    peak_memory_mb: float
    """On a CPU the resident peak of the whole process before evaluation, on a GPU the allocator's; MiB."""
    note: str = ""
    device: str = ""
    threads: int = 0
    versions: str = ""
    commit: str = ""
    time: str = ""
    """UTC, seconds."""

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What is measured once."""
        return self.method, self.domain, self.seed, self.settings


NAMES = [field.name for field in fields(PeerRow)]
PARSERS: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: {"True": True, "False": False}[text],
}


def read_rows(path: Path) -> list[PeerRow]:
    """The rows of a CSV, none where there is no file; a last line that a killed process left torn is dropped.

    Raises UserError where the file is no table of these rows.
    """
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    if not lines or next(csv.reader(lines[:1])) != NAMES:
        raise UserError(f"{path} is not a table of this benchmark (its first line differs); give another --output")
    whole = [line for line in lines if line.endswith("\n")]
    try:
        return [_parse(line) for line in csv.DictReader(whole)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds a row that cannot be read ({error!r}); remove the line") from error


def _parse(line: dict[str, str]) -> PeerRow:
    return PeerRow(**{name: PARSERS[PeerRow.__annotations__[name]](text) for name, text in line.items()})


def append_row(path: Path, row: PeerRow) -> None:
    """Write the table with one more row, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, NAMES, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(one) for one in [*read_rows(path), row])
    write_text(path, text.getvalue())


def markdown(rows: Sequence[PeerRow], methods: Iterable[str], domains: Sequence[str]) -> str:
    """Final mIoU by method and domain, mean and spread over seeds; then the oracle, cost, and what was noted."""
    present = [domain for domain in domains if any(row.domain == domain for row in rows)]
    named = [method for method in methods if any(row.method == method for row in rows)]
    lines = ["# Methods without and with source data", "", *_remarks(rows, present), ""]
    lines += ["| method | source data | " + " | ".join([*present, "mean over domains"]) + " |"]
    lines += ["|---|---|" + "---:|" * (len(present) + 1)]
    shipped = {row.domain: row.miou_source for row in rows}
    lines.append(
        "| " + " | ".join(["source as shipped", "none", *_cells([{0: shipped[name]} for name in present])]) + " |"
    )
    for method in named:
        own = [row for row in rows if row.method == method]
        free = "none" if all(row.source_free for row in own) else "**needed**"
        final = [{row.seed: row.miou_final for row in own if row.domain == domain} for domain in present]
        stopped = [any(row.note for row in own if row.domain == domain) for domain in present]
        cells = [
            (cell + " †" * mark if cell else "")
            for cell, mark in zip(_cells(final), [*stopped, any(stopped)], strict=True)
        ]
        lines.append("| " + " | ".join([method, free, *cells]) + " |")
    lines += [""] + ["† holds a run that was stopped or diverged, see the notes."] * any(row.note for row in rows)
    lines += ["## Oracle, cost", ""]
    lines += [
        "| method | best snapshot (oracle), mean | steps | seconds | seconds, idle machine | peak MiB | notes |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for method in named:
        own = [row for row in rows if row.method == method]
        notes = "; ".join(sorted({f"{row.domain} seed {row.seed}: {row.note}" for row in own if row.note}))
        lines.append(
            f"| {method} | {statistics.fmean(row.miou_best for row in own):.1f} | {_span(row.steps for row in own)} "
            f"| {statistics.fmean(row.seconds for row in own):.1f} "
            f"| {statistics.fmean(row.idle_seconds for row in own):.1f} "
            f"| {max(row.peak_memory_mb for row in own):.0f} | {notes} |"
        )
    return "\n".join(lines) + "\n"


def _remarks(rows: Sequence[PeerRow], domains: Sequence[str]) -> list[str]:
    last = max(rows, key=lambda row: row.time)
    seeds = sorted({row.seed for row in rows})
    return [
        "mIoU in percent after the last step, at the labels' own size, on held-out frames of each target: mean over",
        f"seeds ({', '.join(map(str, seeds))}) and, from two on, sample standard deviation; over domains, that of",
        "the seeds' means. The best snapshot is chosen by labels: perfect stopping, which no method knows.",
        "",
        *(f"- {domain}: {'; '.join(sorted({r.settings for r in rows if r.domain == domain}))}" for domain in domains),
        "",
        f"{last.device}, {last.threads} threads; {last.versions}; commit {last.commit}; {last.time}.",
    ]


def _cells(by_domain: list[dict[int, float]]) -> list[str]:
    """A cell for each domain from its values by seed, and one for the mean over domains at the seeds that all have."""
    common = set.intersection(*(set(values) for values in by_domain))
    over = [statistics.fmean(values[seed] for values in by_domain) for seed in sorted(common)]
    return [*(_cell(list(values.values())) for values in by_domain), _cell(over)]


def _cell(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else ""
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"


def _span(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"
