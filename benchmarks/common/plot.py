"""Bars of a benchmark's CSV: `python -m benchmarks.common.plot FILE.csv` writes FILE.png. Reads nothing but the CSV."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks.common.row import Row, read_rows
from sfda_engine.errors import UserError
from sfda_engine.exit_codes import run_entry
from sfda_engine.files import whole_file


def plot(path: Path) -> Path | None:
    """One group of bars a case, one bar a provider, its p50 with p20 and p80; None where nothing was timed."""
    from matplotlib.figure import Figure  # not above: processes that measure memory import this file

    rows = [row for row in read_rows(path) if row.p50_ms is not None and row.direction not in ("forward", "backward")]
    if not rows:
        return None
    cases = list(dict.fromkeys(_case(row) for row in rows))
    providers = list(dict.fromkeys(row.provider for row in rows))
    figure = Figure(figsize=(10, 1.5 + 0.28 * len(cases) * len(providers)), layout="constrained")
    axes = figure.subplots()
    for index, provider in enumerate(providers):
        own = [row for row in rows if row.provider == provider]
        at = [cases.index(_case(row)) + 0.8 * (index - (len(providers) - 1) / 2) / len(providers) for row in own]
        middle = [row.p50_ms or 0.0 for row in own]
        spread = [
            [m - (row.p20_ms or m) for row, m in zip(own, middle, strict=True)],
            [(row.p80_ms or m) - m for row, m in zip(own, middle, strict=True)],
        ]
        axes.barh(at, middle, 0.8 / len(providers), xerr=spread, label=provider)
    axes.set_yticks(range(len(cases)), cases)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("ms, median with 20th and 80th percentile")
    axes.set_title(f"{path.stem}: {rows[-1].device}", fontsize=10)
    axes.legend(fontsize=8)
    target = path.with_suffix(".png")
    save(figure, target, dpi=120)
    return target


def save(figure: Any, path: Path, dpi: int) -> None:
    """Write a `matplotlib.figure.Figure` as PNG, whole or not at all."""
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=dpi, format="png")


def _case(row: Row) -> str:
    return f"{row.op}\n{row.shape}, {row.dtype}"


def main(argv: list[str] | None = None) -> int:
    """Plot every file that is named. Raises UserError where one is no benchmark's CSV."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.common.plot", description=__doc__)
    parser.add_argument("file", nargs="+", type=Path, metavar="FILE.csv", help="CSV that a benchmark has written")
    for path in parser.parse_args(sys.argv[1:] if argv is None else argv).file:
        if not path.is_file():
            raise UserError(f"there is no file {path}; name a CSV that a benchmark has written")
        print(plot(path) or f"{path}: nothing was timed, nothing to plot")
    return 0


if __name__ == "__main__":
    run_entry(main)
