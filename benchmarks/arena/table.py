"""The arena's rows as a Markdown table and as a picture: a slope a row, from the untouched source to what shipped."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arena.run import Row
from benchmarks.common.machine import provenance
from benchmarks.common.markdown import table
from benchmarks.common.plot import save

HEAD = (
    "network", "target", "size", "start: exposure, share", "seed", "settings", "source", "full warm start", "start",
    "shipped", "gain", "last", "best view", "oracle", "verdict", "right", "CPU s",
)  # fmt: skip


def lines(rows: Sequence[Row]) -> list[str]:
    """The table, and what it comes to."""
    body = [
        (
            row.network, row.target, row.size, row.chosen, str(row.seed), row.settings,
            *(f"{value:.1f}" for value in (row.source, row.bn_warm_start, row.start, row.adapted)),
            f"{row.gain:+.1f}", f"{row.last:.1f}", *map(ceiling, (row.best_view, row.oracle)),
            row.verdict, "yes" if row.right else "no", f"{row.cpu_seconds:.0f}",
        )
        for row in rows
    ]  # fmt: skip
    return [*table(HEAD, body, right=range(6, 14)), "", *summary(rows)]


def ceiling(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def summary(rows: Sequence[Row]) -> list[str]:
    """Mean gain, worst row, verdicts; over the rows by defaults, then over all."""
    plain = [row for row in rows if not row.settings]
    told = []
    if plain:
        worst = min(plain, key=lambda row: row.gain)
        mean = statistics.fmean(row.gain for row in plain)
        told.append(
            f"By defaults, {len(plain)} rows: mean gain over the untouched source {mean:+.1f} points, worst "
            f"{worst.gain:+.1f} ({worst.network} on {worst.target})."
        )
    told.append(f"Verdict right in {sum(row.right for row in rows)} of {len(rows)} rows.")
    return [*told, "", ", ".join(f"{name} {value}" for name, value in provenance().items())]


def draw(rows: Sequence[Row], path: Path) -> None:
    """A slope a row: untouched source, start, shipped; rows that lost are red."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for row in rows:
        lost = row.gain < 0
        axes.plot(
            range(3),
            [row.source, row.start, row.adapted],
            color="#dc2626" if lost else "#2563eb",
            alpha=0.9 if lost else 0.5,
            marker="o",
            markersize=3,
        )
    axes.set_xticks(range(3), ["untouched source", "start", "shipped"])
    axes.set_ylabel("mIoU in percent")
    axes.set_title(f"{len(rows)} runs by defaults", loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path, dpi=130)
