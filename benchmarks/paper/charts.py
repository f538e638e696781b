"""Charts of the tables and of Figure 8: mIoU of every cell, and the paper's own where there is one."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.results import Outcome, heading
from benchmarks.paper.tables import Exhibit
from sfda_engine.files import whole_file

SOURCE_FREE, SOURCE_DRIVEN, PAPER = "#2563eb", "#94a3b8", "#111827"


def draw(path: Path, exhibit: Exhibit, found: Sequence[Outcome]) -> None:
    """Bars where rows are methods or data sets, lines where they are values of a parameter."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = exhibit.name in ("table_5", "table_6", "figure_8")
    figure = (_lines if lines else _bars)(pyplot, exhibit, found)
    figure.suptitle(heading(exhibit), fontsize=12)
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=130, format="png")
    pyplot.close(figure)


def _bars(pyplot: Any, exhibit: Exhibit, found: Sequence[Outcome]) -> Any:
    """A panel for each network and column (Table 4: data set), a bar a cell, a tick where the paper stands."""
    by_row = exhibit.name == "table_4"
    panels: dict[str, list[tuple[str, Any]]] = {}
    for cell in exhibit.cells:
        panel, name = (cell.row, cell.column) if by_row else (cell.column, cell.row)
        panels.setdefault(f"{panel}, {cell.job.network}", []).append((name, cell))
    longest = max(len(cells) for cells in panels.values())
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(max(5.0, 3.3 * len(panels)), 1.7 + 0.42 * longest), layout="constrained", squeeze=False
    )
    for axis, (title, cells) in zip(axes[0], panels.items(), strict=True):
        for place, (_, cell) in enumerate(cells):
            values = [outcome.score["miou"] for outcome in found if outcome.cell == cell]
            if values:
                color = SOURCE_DRIVEN if cell.source_free is False else SOURCE_FREE
                spread = statistics.stdev(values) if len(values) > 1 else None
                mean = statistics.fmean(values)
                axis.barh(place, mean, 0.65, xerr=spread, color=color)
                right = max(mean + (spread or 0.0), 0.0 if cell.printed is None else cell.printed.values["mIoU"])
                axis.text(right, place, f"  {mean:.1f}", va="center", fontsize=8)
            if cell.printed is not None:
                axis.plot(cell.printed.values["mIoU"], place, "D", color=PAPER, markersize=5)
        axis.set_yticks(range(len(cells)), [name for name, _ in cells], fontsize=8)
        axis.set_ylim(len(cells) - 0.5, -0.5)
        axis.set_xlim(0, 1.2 * axis.get_xlim()[1])
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("mIoU, %", fontsize=8)
    _legend(pyplot, figure, exhibit)
    return figure


def _lines(pyplot: Any, exhibit: Exhibit, found: Sequence[Outcome]) -> Any:
    """A line a column and network over the rows' values, and the paper's where it prints one."""
    figure, axis = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
    rows = list(dict.fromkeys(cell.row for cell in exhibit.cells))
    for network, column in dict.fromkeys((cell.job.network, cell.column) for cell in exhibit.cells):
        own = [cell for cell in exhibit.cells if (cell.job.network, cell.column) == (network, column)]
        measured = [(rows.index(c.row), [o.score["miou"] for o in found if o.cell == c]) for c in own]
        measured = [(place, values) for place, values in measured if values]
        spread = [statistics.stdev(values) if len(values) > 1 else 0.0 for _, values in measured]
        axis.errorbar(
            [place for place, _ in measured],
            [statistics.fmean(values) for _, values in measured],
            yerr=spread,
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


def _legend(pyplot: Any, figure: Any, exhibit: Exhibit) -> None:
    handles = []
    if any(cell.source_free is False for cell in exhibit.cells):
        handles.append(
            pyplot.Rectangle((0, 0), 1, 1, color=SOURCE_DRIVEN, label="source only, or trained on source data")
        )
        handles.append(pyplot.Rectangle((0, 0), 1, 1, color=SOURCE_FREE, label="source-free"))
    if any(cell.printed is not None for cell in exhibit.cells):
        handles.append(pyplot.Line2D([], [], marker="D", linestyle="", color=PAPER, label="the paper"))
    if handles:
        figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), fontsize=7)
