"""Loss curves: the lines of metrics.jsonl -> one small inline SVG per loss term or signal of the guard."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

TITLES = {
    "generator/bns": "BN statistics · Eq. 4",
    "generator/dad_st": "Dual attention, synthetic → target",
    "generator/mae": "Disagreement with the student (MAE)",
    "generator/dad_ss": "Dual attention, source vs. student",
    "generator/total": "Total",
    "student/mae": "Agreement with the source (MAE)",
    "student/dad_ss": "Dual attention, source vs. student",
    "student/max_square": "Max square",
    "student/adversarial": "Adversarial, hard patches",
    "student/total": "Total",
    "discriminator/bce": "Easy against hard patches (BCE)",
    "guard/class_entropy": "Entropy of predicted classes",
    "guard/classes_kept": "Effective classes, of the start's",
    "guard/entropy": "Mean entropy of predictions",
    "guard/entropy_kept": "Mean entropy, of the start's",
    "guard/confidence": "Mean confidence",
    "guard/agreement": "Pixels that agree with the start",
    "guard/bn_drift": "Drift of BN statistics",
}
COLORS = {"generator": "#0d9488", "student": "#2563eb", "discriminator": "#c2740a"}
OTHER = "#64748b"
INK, FAINT, SHADE = "#64748b", "#e2e8f0", "#f1f5f9"
WARMUP = "generator_warmup"
POINTS = 240  # the most points in one curve: longer runs are averaged in bins, the panel is 280 pixels wide
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "sfda", "axes.edgecolor": FAINT, "font.size": 8}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One loss term or signal: its title, its last value, and its curve as an `<svg>` element."""

    title: str
    last: float
    svg: str


@dataclass(frozen=True)
class Curve:
    """steps, values: (T,) float64. The warm-up lies left of step 0, where the adaptation starts."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def loss_panels(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[Panel]]:
    """Panels by network (generator, student, discriminator, guard, any other prefix), in the paper's order."""
    rows = _place(metrics)
    if not rows:
        return {}
    limits = (min(rows), max(rows))
    panels: dict[str, list[Panel]] = {}
    for term in _terms(rows.values()):
        curve = _curve(rows, term)
        if len(curve.values):
            network = term.split("/")[0]
            svg = _draw(curve, COLORS.get(network, OTHER), limits)
            panel = Panel(title=TITLES.get(term, term.partition("/")[2]), last=float(curve.values[-1]), svg=svg)
            panels.setdefault(network, []).append(panel)
    return panels


def _place(metrics: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Rows by position on the x axis; of two rows for one step (a resumed run) the later counts."""
    placed = [row for row in metrics if isinstance(row.get("step"), int)]
    warmup = {row["step"]: row for row in placed if row.get("phase") == WARMUP}
    adaptation = {row["step"]: row for row in placed if row.get("phase") != WARMUP}
    end = max(warmup, default=0)
    return dict(sorted(({step - end: row for step, row in warmup.items()} | adaptation).items()))


def _terms(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    found = {key for row in rows for key in row if "/" in key}
    return [term for term in TITLES if term in found] + sorted(found - TITLES.keys())


def _curve(rows: Mapping[int, Mapping[str, Any]], term: str) -> Curve:
    points = [(step, row[term]) for step, row in rows.items() if _is_finite(row.get(term))]
    steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
    if len(steps) <= POINTS:
        return Curve(steps, values)
    bins = list(zip(np.array_split(steps, POINTS), np.array_split(values, POINTS), strict=True))
    return Curve(np.array([s.mean() for s, _ in bins]), np.array([v.mean() for _, v in bins]))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _draw(curve: Curve, color: str, limits: tuple[int, int]) -> str:
    figure = Figure(figsize=(3.1, 1.5))
    figure.subplots_adjust(left=0.155, right=0.95, bottom=0.15, top=0.96)
    with matplotlib.rc_context(STYLE):
        axes = figure.add_subplot()
        left, right = limits if limits[0] < limits[1] else (limits[0] - 1, limits[1] + 1)
        axes.set_xlim(left, right)
        if left < 0:
            axes.axvspan(left, min(right, 0), color=SHADE, linewidth=0)
        axes.plot(curve.steps, curve.values, color=color, linewidth=1.5, solid_capstyle="round")
        axes.plot(curve.steps[-1:], curve.values[-1:], color=color, marker="o", markersize=3, clip_on=False)
        axes.grid(axis="y", color=FAINT, linewidth=0.6)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0, labelcolor=INK)
        axes.locator_params(axis="y", nbins=4)
        axes.locator_params(axis="x", nbins=5, integer=True)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    """The figure as one `<svg>` element that scales with its place and asks nothing of the network."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]))
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text)
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text).replace("xlink:href", "href")
    return re.sub(r"\s*\n\s*", " ", text).strip()
