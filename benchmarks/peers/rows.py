"""The rows of the table, and the CSV file that holds them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.csv_file import read_csv, write_csv


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


def read_rows(path: Path) -> list[PeerRow]:
    """The rows of a CSV, none where there is no file; UserError where it is no table of these rows."""
    return read_csv(path, PeerRow)


def append_row(path: Path, row: PeerRow) -> None:
    """Write the table with one more row, whole or not at all."""
    write_csv(path, [dataclasses.asdict(one) for one in [*read_rows(path), row]])
