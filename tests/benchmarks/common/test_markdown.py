"""Tables and the cells of several seeds, against their text written by hand."""

from __future__ import annotations

import pytest

from benchmarks.common.markdown import mean_and_spread, spread, table


def test_a_table_with_its_numbers_to_the_right() -> None:
    lines = table(["method", "night", "note"], [["tent", "1.0", ""], ["sfda", "22.5", "x"]], right=range(1, 2))
    assert lines == ["| method | night | note |", "|---|---:|---|", "| tent | 1.0 |  |", "| sfda | 22.5 | x |"]


@pytest.mark.parametrize(
    ("values", "digits", "cell"),
    [([], 1, ""), ([3.456], 2, "3.46"), ([3.456], 1, "3.5"), ([40.0, 41.0, 42.0], 2, "41.00 ± 1.00")],
)
def test_seeds_become_one_cell(values: list[float], digits: int, cell: str) -> None:
    assert mean_and_spread(values, digits) == cell


def test_the_spread_is_that_of_a_sample() -> None:
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)
    assert spread([7.0]) == 0.0
