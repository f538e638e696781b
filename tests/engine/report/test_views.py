"""The grid of views that the report shows."""

from __future__ import annotations

from typing import Any

import pytest

from sfda_engine.report.views import Cell, view_grid

VIEWS = [
    {"size": [128, 96], "exposure": "gamma", "share": 0.3, "total": 2.0, "chosen": True},
    {"size": [128, 96], "exposure": "none", "share": 1.0, "total": -2.0, "chosen": False},
    {"size": [96, 72], "exposure": "gamma", "share": 1.0, "total": None, "chosen": False},
]


def test_sizes_and_exposures_by_share() -> None:
    grid = view_grid({"views": VIEWS})
    assert grid is not None
    assert grid.columns == ("30%", "100%")
    assert [title.split(",")[0] for title, _ in grid.rows] == ["96x72", "128x96", "128x96"]
    assert grid.rows[0][1] == (None, Cell(None, 0.0, False))
    assert grid.rows[1][1] == (Cell(2.0, 1.0, True), None)
    assert grid.rows[2][1] == (None, Cell(-2.0, 0.0, False))


@pytest.mark.parametrize("views", [None, [], "spoilt", [3], [{"size": "big", "share": None, "total": "x"}]])
def test_what_no_run_has_written_breaks_nothing(views: Any) -> None:
    grid = view_grid({"views": views})
    assert grid is None or grid.rows
