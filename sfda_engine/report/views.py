"""The views that were looked at, from result.json: a grid of sizes and exposures by shares, the chosen one marked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sfda_engine.report.numbers import number


@dataclass(frozen=True)
class Cell:
    """One view: what the others say of it, where that lies between the worst and the best (0..1), whether it is the
    start."""

    score: float | None
    height: float
    chosen: bool


@dataclass(frozen=True)
class Grid:
    """Rows are a size and an exposure, columns the shares of the source's BN statistics."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]


def view_grid(result: Mapping[str, Any]) -> Grid | None:
    """The grid of a run; None where result.json tells of no views, as those of earlier versions."""
    views = [view for view in result.get("views") or [] if isinstance(view, Mapping)]
    if not views:
        return None
    scores = [score for view in views if (score := number(view.get("total"))) is not None]
    low, high = min(scores, default=0.0), max(scores, default=0.0)
    shares = sorted({number(view.get("share")) or 0.0 for view in views})
    found = {}
    for view in views:
        score = number(view.get("total"))
        height = 0.0 if score is None or high == low else (score - low) / (high - low)
        found[_row(view), number(view.get("share")) or 0.0] = Cell(score, height, view.get("chosen") is True)
    names = sorted({_row(view) for view in views})
    rows = tuple((_title(name), tuple(found.get((name, share)) for share in shares)) for name in names)
    return Grid(tuple(f"{share:.0%}" for share in shares), rows)


def _row(view: Mapping[str, Any]) -> tuple[int, str, str]:
    """Pixels, size and exposure of a view, for sorting."""
    size = view.get("size")
    width, height = size if isinstance(size, list) and len(size) == 2 else (0, 0)
    return int(number(width) or 0) * int(number(height) or 0), f"{width}x{height}", str(view.get("exposure"))


def _title(row: tuple[int, str, str]) -> str:
    return f"{row[1]}, exposure {row[2]}"
