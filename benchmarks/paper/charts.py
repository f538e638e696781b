"""Charts of the tables and of Figure 8: mIoU of every cell, and the paper's own where there is one."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from benchmarks.common.markdown import spread
from benchmarks.common.plot import save
from benchmarks.paper.outcomes import Outcome
from benchmarks.paper.tables import Exhibit, heading

SOURCE_FREE, SOURCE_DRIVEN, PAPER = "#2563eb", "#94a3b8", "#111827"


def draw(path: Path, exhibit: Exhibit, found: Sequence[Outcome]) -> None:
    """Bars where rows are methods or data sets, lines where they are values of a parameter."""
    lines = exhibit.name in ("table_5", "table_6", "figure_8")
    figure = (_lines if lines else _bars)(exhibit, found)
    figure.suptitle(heading(exhibit), fontsize=12)
    save(figure, path, dpi=130)


def _bars(exhibit: Exhibit, found: Sequence[Outcome]) -> Figure:
    """A panel for each network and column (Table 4: data set), a bar a cell, a tick where the paper stands."""
    by_row = exhibit.name == "table_4"
    panels: dict[str, list[tuple[str, Any]]] = {}
    for cell in exhibit.cells:
        panel, name = (cell.row, cell.column) if by_row else (cell.column, cell.row)
        panels.setdefault(f"{panel}, {cell.job.network}", []).append((name, cell))
    longest = max(len(cells) for cells in panels.values())
    figure = Figure((max(5.0, 3.3 * len(panels)), 1.7 + 0.42 * longest), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (title, cells) in zip(axes[0], panels.items(), strict=True):
        for place, (_, cell) in enumerate(cells):
            values = [outcome.score["miou"] for outcome in found if outcome.cell == cell]
            if values:
                color = SOURCE_DRIVEN if cell.source_free is False else SOURCE_FREE
                mean, over_seeds = statistics.fmean(values), spread(values)
                axis.barh(place, mean, 0.65, xerr=over_seeds or None, color=color)
                right = max(mean + over_seeds, 0.0 if cell.printed is None else cell.printed.values["mIoU"])
                axis.text(right, place, f"  {mean:.1f}", va="center", fontsize=8)
            if cell.printed is not None:
                axis.plot(cell.printed.values["mIoU"], place, "D", color=PAPER, markersize=5)
        axis.set_yticks(range(len(cells)), [name for name, _ in cells], fontsize=8)
        axis.set_ylim(len(cells) - 0.5, -0.5)
        axis.set_xlim(0, 1.2 * axis.get_xlim()[1])
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("mIoU, %", fontsize=8)
    _legend(figure, exhibit)
    return figure


def _lines(exhibit: Exhibit, found: Sequence[Outcome]) -> Figure:
    """A line a column and network over the rows' values, and the paper's where it prints one."""
    figure = Figure((6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    rows = list(dict.fromkeys(cell.row for cell in exhibit.cells))
    for network, column in dict.fromkeys((cell.job.network, cell.column) for cell in exhibit.cells):
        own = [cell for cell in exhibit.cells if (cell.job.network, cell.column) == (network, column)]
        measured = [(rows.index(c.row), [o.score["miou"] for o in found if o.cell == c]) for c in own]
        measured = [(place, values) for place, values in measured if values]
        axis.errorbar(
            [place for place, _ in measured],
            [statistics.fmean(values) for _, values in measured],
            yerr=[spread(values) for _, values in measured],
            marker="o",
            capsize=3,
            label=f"{column}, {network}",
        )
        printed = [(rows.index(c.row), c.printed.values["mIoU"]) for c in own if c.printed is not None]
        if printed:
            axis.plot(*zip(*printed, strict=True), "D--", color=PAPER, markersize=5, label=f"{column}, the paper")
    axis.set_xticks(range(len(rows)), rows)
    axis.set_xlabel(exhibit.rows_are)
    axis.set_ylabel("mIoU, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return figure


def _legend(figure: Figure, exhibit: Exhibit) -> None:
    handles: list[Artist] = []
    if any(cell.source_free is False for cell in exhibit.cells):
        handles.append(Rectangle((0, 0), 1, 1, color=SOURCE_DRIVEN, label="source only, or trained on source data"))
        handles.append(Rectangle((0, 0), 1, 1, color=SOURCE_FREE, label="source-free"))
    if any(cell.printed is not None for cell in exhibit.cells):
        handles.append(Line2D([], [], marker="D", linestyle="", color=PAPER, label="the paper"))
    if handles:
        figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), fontsize=7)
