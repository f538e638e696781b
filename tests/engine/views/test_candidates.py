"""Which views are tried: sizes within bounds and strides, refused sizes dropped, the source at every size."""

from __future__ import annotations

import pytest
from torch import nn

from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.models.streetnet import StreetNet
from sfda_engine.views.candidates import (
    MOST_PIXELS,
    SHARES,
    TRAINING_PIXELS,
    UPSCALING,
    candidate_sizes,
    candidates,
    free_sizes,
    runnable,
    stated_sizes,
)
from sfda_engine.views.view import View, pixels
from tests.engine.views.networks import ByColor

FRAMES = [ImageSize(480, 360), ImageSize(320, 227), ImageSize(1280, 720), ImageSize(2048, 1024), ImageSize(100, 80)]


def test_sizes_around_the_stated_one() -> None:
    assert stated_sizes(ImageSize(256, 192), ImageSize(480, 360), 32) == [
        ImageSize(192, 128),
        ImageSize(256, 192),
        ImageSize(384, 288),
        ImageSize(512, 384),
    ]


def test_stated_sizes_do_not_go_far_above_the_frames() -> None:
    assert max(stated_sizes(ImageSize(320, 224), ImageSize(320, 227), 32)) == ImageSize(480, 320)
    assert max(stated_sizes(ImageSize(640, 480), ImageSize(320, 240), 32)) == ImageSize(640, 480)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("training", [None, ImageSize(512, 256), ImageSize(1024, 512)])
@pytest.mark.parametrize("alignment", [1, 32, 48])
def test_free_sizes_keep_their_bounds(frame: tuple[int, int], training: tuple[int, int] | None, alignment: int) -> None:
    sizes = free_sizes(frame, training, alignment)
    most = MOST_PIXELS if training is None else TRAINING_PIXELS * pixels(training)
    rounding = 1.3 if alignment == 48 else 1.15
    assert all(side % alignment == 0 and side % 32 == 0 for size in sizes for side in size)
    assert pixels(sizes[-1]) <= max(rounding * most, 96 * 96)
    assert sizes[-1][0] <= max(UPSCALING * frame[0] + 48, 96)
    assert sizes == sorted(sizes, key=pixels)
    assert len(set(sizes)) == len(sizes) > 1


def test_refused_sizes_are_dropped() -> None:
    assert runnable(ByColor(32), [ImageSize(64, 32), ImageSize(65, 32), ImageSize(96, 64)]) == [
        ImageSize(64, 32),
        ImageSize(96, 64),
    ]


def test_a_refused_stated_size_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="65x32"):
        runnable(ByColor(32), [ImageSize(64, 32), ImageSize(65, 32), ImageSize(96, 64)], ImageSize(65, 32))
    with pytest.raises(UserError):
        runnable(ByColor(32), [ImageSize(65, 32)])


def test_the_network_says_which_sizes_it_takes() -> None:
    sizes = candidate_sizes(ByColor(48), ImageSize(480, 360), ImageSize(240, 192))
    assert (240, 192) in sizes
    assert all(width % 48 == height % 48 == 0 for width, height in sizes)


def test_a_stated_size_that_is_no_multiple_still_has_neighbours() -> None:
    assert len(candidate_sizes(ByColor(2), ImageSize(480, 360), ImageSize(250, 190))) == 4


@pytest.mark.parametrize("exposure", ["none", "gamma"])
def test_the_untouched_source_is_tried_at_every_size(exposure: str) -> None:
    sizes = [(64, 32), (96, 64)]
    views = candidates(StreetNet(5), sizes, exposure)  # type: ignore[arg-type]
    assert len(set(views)) == len(views) == 2 * 2 * len(SHARES)
    assert all(View(exposure, size, 1.0) in views for size in sizes)  # type: ignore[arg-type]


def test_without_batch_norm_there_is_one_share() -> None:
    assert {view.share for view in candidates(ByColor(), [ImageSize(64, 32)])} == {1.0}
    assert {view.share for view in candidates(nn.Sequential(nn.GroupNorm(1, 3)), [ImageSize(64, 32)])} == {1.0}
