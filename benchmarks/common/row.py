"""One row of a benchmark table, its CSV file and its Markdown table. Everything shown is read back from the CSV."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import functools
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch


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
    return dataclasses.replace(
        row,
        device=device_name(),
        threads=torch.get_num_threads(),
        versions=versions(),
        commit=commit(),
        time=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


@functools.cache
def device_name() -> str:
    """The GPU's name, or the processor's with the word CPU in front."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU {_processor()}"


def device_slug() -> str:
    """The device in a file name: cpu, or the GPU's name in lower case."""
    return device_name().lower().replace(" ", "_") if torch.cuda.is_available() else "cpu"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.processor() or platform.machine()


@functools.cache
def versions() -> str:
    try:
        import triton

        kernels = f"triton {triton.__version__}"
    except ImportError:
        kernels = "no triton"
    return f"torch {torch.__version__}, {kernels}, Python {platform.python_version()}"


@functools.cache
def commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write rows with a header; None is an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in rows)


def read_csv(path: Path) -> list[Row]:
    """The rows that `write_csv` wrote."""
    with path.open(newline="") as file:
        return [Row(**{name: _parse(name, text) for name, text in line.items()}) for line in csv.DictReader(file)]


def _parse(name: str, text: str) -> Any:
    annotation = Row.__annotations__[name]
    if annotation == "str":
        return text
    if annotation == "int":
        return int(text)
    return float(text) if text else None


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


def write_markdown(path: Path, rows: list[Row], title: str, remark: str) -> None:
    """A table of the rows, columns that are empty throughout left out, under a title and a remark."""
    columns = [name for name in SHOWN if any(getattr(row, name) not in (None, "") for row in rows)]
    last = rows[-1]
    lines = [f"# {title}", "", remark, "", f"{last.device}, {last.threads} threads; {last.versions};"]
    lines += [f"commit {last.commit}; {last.time}.", ""]
    lines += ["| " + " | ".join(SHOWN[name] for name in columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(name, getattr(row, name)) for name in columns) + " |" for row in rows]
    path.write_text("\n".join(lines) + "\n")


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
