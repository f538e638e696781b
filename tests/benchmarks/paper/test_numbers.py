"""The paper's numbers agree with themselves: a slip of the pen in the CSV would show here."""

from __future__ import annotations

import statistics

import pytest

from benchmarks.paper.numbers import Printed, printed_numbers, printed_table
from sfda_engine.data.classes import CLASS_SETS

ROUNDING = 0.05 + 0.005
"""Class values have one decimal, means two."""


@pytest.mark.parametrize("line", [one for table in (1, 2) for one in printed_table(table)], ids=lambda one: one.row)
def test_a_printed_mean_is_that_of_its_classes(line: Printed) -> None:
    names = CLASS_SETS["cityscapes" if line.table == 1 else "synthia16"].names
    assert set(line.values) - {"mIoU", "mIoU13"} == set(names)
    assert statistics.fmean(line.values[name] for name in names) == pytest.approx(line.values["mIoU"], abs=ROUNDING)
    if line.table == 2:
        own = statistics.fmean(line.values[name] for name in CLASS_SETS["cityscapes13"].names)
        assert own == pytest.approx(line.values["mIoU13"], abs=ROUNDING)


def test_figures_that_the_text_names() -> None:
    found = {(one.table, one.network, one.row, one.column): one.values for one in printed_numbers()}
    assert len(found) == len(printed_numbers()) == 13 + 7 + 7 * 4 + 3 * 4 + 4 + 4
    assert found[1, "deeplabv3", "SFDA", "Cityscapes"]["mIoU"] == 43.16
    assert found[1, "deeplabv3", "CBST", "Cityscapes"]["sidewalk"] == 41.5
    assert found[1, "segnet", "source only", "Cityscapes"]["mIoU"] == 27.13
    assert found[2, "deeplabv3", "source only", "Cityscapes"]["mIoU13"] == 34.36
    assert found[3, "deeplabv3", "SFDA", "Rio"] == {"mIoU": 49.03}
    assert found[4, "deeplabv3", "Cityscapes", "DAD"] == {"mIoU": 65.5}


def test_sweeps_meet_where_their_settings_do() -> None:
    at_one = [one.values["mIoU"] for one in printed_table(5) if one.row == "1"]
    at_half = [one.values["mIoU"] for one in printed_table(6) if one.row == "0.5"]
    table_1 = [one.values["mIoU"] for one in printed_table(1, "deeplabv3") if one.row == "SFDA"]
    assert at_one == at_half == table_1
