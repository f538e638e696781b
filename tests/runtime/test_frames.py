"""Frames that must not reach the network: the second half of the fault table (notes/deploy.md, section 4a)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sfda_runtime import InputError, Limits, Segmenter, Status
from sfda_runtime.faults import DAMAGE, fault
from sfda_runtime.frames import FrameGuard, check_exposure, check_layout
from tests.runtime.tiny import picture

GOOD = picture(0)
WITH_NAN = GOOD.astype(np.float32)
WITH_NAN[0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (None, "numpy array"),
        ([[[1, 2, 3]]], "numpy array"),
        (WITH_NAN, "float32"),
        (GOOD.astype(np.float64), "float64"),
        (GOOD.astype(np.int64), "int64"),
        (GOOD.astype(np.uint16), "uint16"),
        (GOOD[..., 0], "one picture"),
        (GOOD[None], "one picture"),
        (np.zeros((0, 48, 64, 3), np.uint8), "one picture"),
        (GOOD[..., :1], "RGB"),
        (np.concatenate([GOOD, GOOD[..., :1]], axis=-1), "RGB"),
        (GOOD.transpose(2, 0, 1), "transpose"),
        (GOOD[:1, :1], "1x1"),
        (GOOD[:9, :7], "7x9"),
        (GOOD[:0], "too small"),
        (GOOD[:, :0], "too small"),
        (np.broadcast_to(np.uint8(9), (64, 9000, 3)), "too large"),
        (np.zeros_like(GOOD), "black"),
        (np.full_like(GOOD, 255), "saturated"),
        (np.full_like(GOOD, 90), "shows nothing"),
    ],
)
def test_refused(segmenter: Segmenter, frame: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        FrameGuard(Limits()).check(frame)
    result = segmenter(frame)
    assert result.status == Status.BAD_INPUT
    assert reason in result.reason
    assert result.labels.dtype == np.uint8
    assert (result.labels == 255).all()
    assert result.labels.size


def test_a_good_frame_passes_as_it_is() -> None:
    assert FrameGuard(Limits()).check(GOOD) is GOOD


def test_the_limits_of_size_are_width_and_height() -> None:
    limits = Limits(minimum=(64, 48), maximum=(64, 48))
    check_layout(GOOD, limits)
    with pytest.raises(InputError, match="48x64"):
        check_layout(GOOD.transpose(1, 0, 2), limits)
    with pytest.raises(InputError, match="65x48"):
        check_layout(np.zeros((48, 65, 3), np.uint8), limits)


@pytest.mark.parametrize(("share", "refused"), [(0.98, False), (0.995, True)])
@pytest.mark.parametrize("value", [0, 4, 251, 255])
def test_share_of_black_and_saturated_values(value: int, share: float, refused: bool) -> None:
    values = np.linspace(20, 220, 1000).astype(np.uint8)
    values[: int(1000 * share)] = value
    if refused:
        with pytest.raises(InputError, match=r"99\.5 %"):
            check_exposure(values, Limits())
    else:
        check_exposure(values, Limits())


def test_a_night_frame_passes() -> None:
    """Mostly dark, with lamps: nothing to refuse."""
    night = np.random.default_rng(0).integers(0, 12, (48, 64, 3), dtype=np.uint8)
    night[::16, ::16] = 240
    FrameGuard(Limits()).check(night)


def test_frozen_counts_repetitions_in_a_row() -> None:
    guard = FrameGuard(Limits(frozen_after=2))
    guard.check(picture(1))
    guard.check(picture(1))
    with pytest.raises(InputError, match="frozen"):
        guard.check(picture(1))
    guard.check(picture(2))
    guard.check(picture(1))
    guard.check(picture(1))


def test_frozen_can_be_switched_off() -> None:
    guard = FrameGuard(Limits(frozen_after=0))
    for _ in range(40):
        guard.check(GOOD)


def test_one_moving_pixel_row_is_not_frozen() -> None:
    guard = FrameGuard(Limits(frozen_after=1))
    moved = GOOD.copy()
    moved[0, 0] ^= 1
    guard.check(GOOD)
    guard.check(moved)


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_faults_of_a_soak_are_faults(kind: str, segmenter: Segmenter) -> None:
    """Each by itself, so that the soak's own expectation is not the only witness."""
    (shot,) = fault(list(DAMAGE).index(kind), GOOD)
    assert shot.kind == kind
    try:
        frame = shot.read()
    except InputError:
        return
    assert segmenter(frame).status == Status.BAD_INPUT
