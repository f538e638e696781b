"""One row of a benchmark of time and memory, its CSV file and its Markdown table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common.csv_file import read_csv, write_csv
from benchmarks.common.machine import provenance
from benchmarks.common.markdown import table
from sfda_engine.files import write_text


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement. A number that was not taken, or that makes no sense here, is None; `note` says why."""

    op: str
    """Operator, adapt_step or inference."""
    provider: str
    """Which implementation: eager fp32, eager bf16, torch.compile, ours, naive, engine, ..."""
    direction: str
    """What is timed: forward, backward, both, step, or frame to labels."""
    shape: str
    """Sizes in words, B batch, C channels, N positions."""
    dtype: str
    """Type of the inputs, or the precision of a step."""
    p20_ms: float | None = None
    """20th percentile of the time of one call, ms; as p50_ms and p80_ms."""
    p50_ms: float | None = None
    p80_ms: float | None = None
    peak_memory_mb: float | None = None
    """Peak above the loaded inputs or models, MiB: the allocator's on a GPU, resident size on a CPU."""
    flop: float | None = None
    """Floating-point operations that the operator cannot do without."""
    bytes: float | None = None
    """Bytes that it must at least read and write."""
    floor_ms: float | None = None
    """The least time on this device at its rated peaks; None for a device that is not in the table."""
    floor_share: float | None = None
    """floor_ms / p50_ms: 1 is the floor itself."""
    max_error: float | None = None
    """Largest relative L2 error over outputs and gradients (over terms of a step) against the reference; of labels the
    share that differs."""
    images_per_second: float | None = None
    """Frames a second, for a step or an inference."""
    note: str = ""
    """Why numbers are missing."""
    device: str = ""
    threads: int = 0
    """torch.get_num_threads()."""
    versions: str = ""
    """torch, triton and Python."""
    commit: str = ""
    time: str = ""
    """UTC, seconds."""


def stamp(row: Row) -> Row:
    """The row with device, versions, commit and time filled in."""
    return dataclasses.replace(row, **provenance())


def read_rows(path: Path) -> list[Row]:
    """The rows that `write_table` wrote, none where there is no file; UserError where it is no such table."""
    return read_csv(path, Row)


SHOWN = {
    "op": "op",
    "shape": "shape",
    "dtype": "dtype",
    "direction": "pass",
    "provider": "provider",
    "p50_ms": "p50 ms",
    "p20_ms": "p20",
    "p80_ms": "p80",
    "images_per_second": "images/s",
    "peak_memory_mb": "peak MiB",
    "flop": "FLOP",
    "bytes": "bytes",
    "floor_share": "share of floor",
    "max_error": "max error",
    "note": "note",
}


def write_table(stem: Path, rows: Sequence[Row], title: str, remark: str) -> None:
    """STEM.csv, and STEM.md under a title and a remark, columns that are empty throughout left out."""
    write_csv(stem.with_suffix(".csv"), [dataclasses.asdict(row) for row in rows])
    columns = [name for name in SHOWN if any(getattr(row, name) not in (None, "") for row in rows)]
    last = rows[-1]
    lines = [f"# {title}", "", remark, "", f"{last.device}, {last.threads} threads; {last.versions};"]
    lines += [f"commit {last.commit}; {last.time}.", ""]
    body = [[_cell(name, getattr(row, name)) for name in columns] for row in rows]
    lines += table([SHOWN[name] for name in columns], body)
    write_text(stem.with_suffix(".md"), "\n".join(lines) + "\n")


def _cell(name: str, value: str | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if name in ("flop", "bytes", "max_error"):
        return f"{value:.1e}"
    if name == "floor_share":
        return f"{value:.0%}"
    return f"{value:.4g}" if value < 1000 else f"{value:.0f}"
