"""The views that teach: the start first, the best of the ranking, the cost."""

from __future__ import annotations

import pytest

from sfda_engine.data.images import ImageSize
from sfda_engine.method.teaching_views import COST, VIEWS, teaching_views
from sfda_engine.views.view import View, pixels

START = View("gamma", ImageSize(256, 192), 0.5)
LARGER = View("gamma", ImageSize(384, 288), 0.5)
TWICE = View("gamma", ImageSize(512, 384), 1.0)
SMALLER = View("gamma", ImageSize(192, 144), 0.5)


def test_the_start_comes_first_and_the_best_follow() -> None:
    same = [View("gamma", ImageSize(256, 192), share) for share in (0.7, 0.3, 1.0)]
    assert teaching_views(START, [LARGER, *same, START]) == [START, LARGER, *same[:2]]


def test_views_smaller_than_the_start_do_not_teach() -> None:
    assert teaching_views(START, [SMALLER, LARGER]) == [START, LARGER]


def test_views_at_another_exposure_teach_as_well() -> None:
    other = View("none", ImageSize(256, 192), 0.5)
    assert teaching_views(START, [other, LARGER]) == [START, other, LARGER]


def test_a_network_that_is_best_at_twice_the_size_teaches_from_there() -> None:
    assert teaching_views(START, [TWICE, LARGER]) == [START, TWICE, LARGER]


@pytest.mark.parametrize(
    "ranked", [[TWICE] * 1 + [View("gamma", ImageSize(512, 384), s) for s in (0.7, 0.5, 0.3)] + [LARGER]]
)
def test_what_costs_too_much_is_passed_over(ranked: list[View]) -> None:
    chosen = teaching_views(START, ranked)
    assert sum(pixels(view.size) for view in chosen) <= COST * pixels(START.size)
    assert len(chosen) <= VIEWS
    assert LARGER in chosen


def test_the_start_alone_teaches_where_nothing_is_ranked() -> None:
    assert teaching_views(START, []) == [START]
