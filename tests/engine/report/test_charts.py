"""Loss curves: which panels there are, and where their points lie."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import matplotlib
import numpy as np
import pytest

from sfda_engine.judge.collapse import Signals
from sfda_engine.report.charts import COLORS, POINTS, SHADE, loss_panels
from sfda_engine.training.guard import named


def row(step: int, phase: str = "adaptation", **terms: Any) -> dict[str, Any]:
    named = {key.replace("__", "/"): value for key, value in terms.items()}
    return {"phase": phase, "step": step, "lr": 1e-3, "images_per_second": 9.0} | named


def curve_points(svg: str) -> list[tuple[float, float]]:
    """The points of the colored curve in SVG units (y grows downwards)."""
    color = "|".join(COLORS.values())
    path = re.search(rf'<path d="([^"]+)"[^>]*style="fill: none; stroke: (?:{color})', svg)
    assert path
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path[1])]


def test_panels_are_grouped_and_ordered_like_the_paper() -> None:
    lines = [
        row(10, "generator_warmup", generator__total=3.0, generator__bns=2.0),
        row(10, discriminator__bce=0.7, student__total=1.0, student__mae=0.5, sentinel__agreement=0.9),
    ]
    panels = loss_panels(lines)
    assert list(panels) == ["generator", "student", "discriminator", "sentinel"]
    assert [panel.title for panel in panels["generator"]] == ["BN statistics · Eq. 4", "Total"]
    assert [panel.last for panel in panels["student"]] == [0.5, 1.0]
    assert panels["sentinel"][0].title == "agreement"


def test_every_signal_of_the_guard_is_drawn_under_a_title() -> None:
    signals = Signals(1.0, 1.0, 0.5, 1.0, 0.8, 1.0, 0.25)
    panels = loss_panels([row(1, student__total=2.0) | named(signals)])
    assert list(panels) == ["student", "guard"]
    assert {panel.last for panel in panels["guard"]} == set(vars(signals).values())
    assert len(panels["guard"]) == len(vars(signals))
    assert not {panel.title for panel in panels["guard"]} & vars(signals).keys()


def test_points_lie_where_the_values_say() -> None:
    values = {10: 1.0, 20: 3.0, 30: 2.0, 50: 0.0}
    svg = loss_panels([row(step, student__total=value) for step, value in values.items()])["student"][0].svg
    points = curve_points(svg)
    left, right = points[0][0], points[-1][0]
    bottom, top = points[3][1], points[1][1]
    for (step, value), (x, y) in zip(values.items(), points, strict=True):
        assert x == pytest.approx(left + (step - 10) / 40 * (right - left), abs=1e-3)
        assert y == pytest.approx(bottom + value / 3 * (top - bottom), abs=1e-3)
    assert SHADE not in svg


def test_warm_up_is_shaded_and_ends_where_the_adaptation_starts() -> None:
    lines = [row(step, "generator_warmup", generator__bns=1.0 + step) for step in (10, 20, 30, 40)]
    lines += [row(step, generator__bns=30.0) for step in (20, 40)]
    svg = loss_panels(lines)["generator"][0].svg
    shade = re.search(rf'<path d="([^"]+)"[^>]*style="fill: {SHADE}', svg)
    assert shade
    edge = max(float(x) for x in re.findall(r"[ML] (\S+) \S+", shade[1]))
    points = curve_points(svg)
    assert points[3][0] == pytest.approx(edge, abs=1e-3)  # the last warm-up step is step 0
    spacing = points[1][0] - points[0][0]
    assert points[4][0] - edge == pytest.approx(2 * spacing, abs=1e-3)


def test_a_resumed_run_counts_the_later_line() -> None:
    lines = [row(10, student__total=9.0), row(20, student__total=8.0), row(20, student__total=1.0)]
    panel = loss_panels(lines)["student"][0]
    assert panel.last == 1.0
    assert len(curve_points(panel.svg)) == 2


def test_what_is_no_number_is_left_out() -> None:
    lines = [
        row(10, student__total=None, student__mae=float("inf")),
        row(20, student__total=2.0),
        {"student/total": 5.0},
        {"phase": "adaptation", "step": "30", "student/total": 5.0},
    ]
    panels = loss_panels(lines)
    assert [panel.last for panel in panels["student"]] == [2.0]
    assert loss_panels([]) == {}
    assert loss_panels([{"phase": "adaptation"}]) == {}


def test_long_runs_stay_small() -> None:
    noise = np.random.default_rng(0).random(5000).tolist()
    lines = [row(step, student__total=value) for step, value in enumerate(noise)]
    svg = loss_panels(lines)["student"][0].svg
    assert 100 < len(curve_points(svg)) <= POINTS
    assert len(svg) < 16_000


def test_svg_is_well_formed_bare_and_leaves_matplotlib_alone() -> None:
    before = dict(matplotlib.rcParams)
    first, second = (loss_panels([row(1, student__total=1.0)])["student"][0].svg for _ in range(2))
    assert first == second
    assert dict(matplotlib.rcParams) == before
    assert ET.fromstring(first).tag == "svg"
    assert not re.search(r"http|<metadata|<style|<\?xml|<!DOCTYPE", first)
