"""Frames kept aside: how many, in stretches, never trained on."""

from __future__ import annotations

import pytest

from sfda_engine.judge.aside import JUDGED, LEAST, SHARE, STRETCH_EVERY, STRETCHES, set_aside


@pytest.mark.parametrize("total", [20, 62, 101, 305, 1403, 10_000])
def test_frames_are_kept_aside_in_stretches(total: int) -> None:
    split = set_aside(total)
    assert not set(split.training) & set(split.judged)
    assert len(split.training) == pytest.approx((1 - SHARE) * total, abs=STRETCHES)
    assert len(split.judged) <= JUDGED
    aside = sorted(set(range(total)) - set(split.training))
    assert set(split.judged) <= set(aside)
    begins = [index for index in aside if index - 1 not in aside]
    assert len(begins) == min(STRETCHES, max(1, total // STRETCH_EVERY))


def test_all_stretches_are_judged() -> None:
    split = set_aside(1000)
    assert {index // 200 for index in split.judged} == set(range(5))


def test_few_frames_all_train() -> None:
    split = set_aside(LEAST - 1)
    assert split.training == tuple(range(LEAST - 1))
    assert len(split.judged) == JUDGED
    assert set(split.judged) <= set(split.training)
