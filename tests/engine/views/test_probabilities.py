"""Labels of every view on one grid: against a direct computation, laid back, in order, and deterministic."""

from __future__ import annotations

import copy

import pytest
import torch

from sfda_engine.data.images import ImageSize
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.streetnet import StreetNet
from sfda_engine.views.candidates import candidates
from sfda_engine.views.probabilities import (
    at_once,
    grid_of,
    inputs,
    look,
    mirrored_mean,
    predict,
    probabilities,
    spread_batches,
)
from sfda_engine.views.view import View
from tests.engine.views.networks import IDENTITY, ByColor, frame

SIZES = [ImageSize(64, 48), ImageSize(96, 64)]
FRAMES = [frame(seed) for seed in range(5)]


def test_the_grid_keeps_the_aspect() -> None:
    assert grid_of(ImageSize(256, 192)) == grid_of(ImageSize(512, 384)) == (48, 64)
    height, width = grid_of(ImageSize(2048, 1024))
    assert width / height == pytest.approx(2, abs=0.05)
    assert height * width == pytest.approx(48 * 64, rel=0.05)


def test_batches_hold_fewer_large_frames() -> None:
    assert [at_once(size) for size in [ImageSize(64, 64), ImageSize(512, 384), ImageSize(2048, 1024)]] == [8, 1, 1]


def test_a_mirrored_frame_is_laid_back() -> None:
    images = inputs(FRAMES, Preprocess(IDENTITY), ImageSize(64, 48))
    grid = (24, 32)
    both = mirrored_mean(ByColor(), images, grid)
    torch.testing.assert_close(both, probabilities(ByColor(), images, grid))
    torch.testing.assert_close(both, torch.nn.functional.avg_pool2d(images, 2).softmax(1))
    torch.testing.assert_close(both.sum(1), torch.ones(5, *grid))


def test_batches_for_statistics_are_spread_and_miss_nothing() -> None:
    preprocess, frames = Preprocess(IDENTITY), [frame(seed) for seed in range(19)]
    batches = list(spread_batches(frames, preprocess, ImageSize(64, 48)))
    assert [len(batch) for batch in batches] == [7, 6, 6]
    everything = inputs(frames, preprocess, ImageSize(64, 48))
    torch.testing.assert_close(batches[1], everything[1::3])


def test_a_look_is_the_arg_max_and_its_probability() -> None:
    seen = look(torch.tensor([[0.5, 0.2], [0.25, 0.7], [0.25, 0.1]]).view(1, 3, 1, 2))
    assert seen.labels.tolist() == [[[0, 1]]]
    assert seen.confidence.tolist() == [[[128, 178]]]
    assert seen.labels.dtype == seen.confidence.dtype == torch.uint8


def test_views_come_in_the_order_asked_for_each_with_its_own_network() -> None:
    source = StreetNet(4).eval()
    before = copy.deepcopy(source.state_dict())
    views = candidates(source, SIZES)
    told: list[tuple[int, int]] = []
    found = predict(source, IDENTITY, views, 4, FRAMES[:3], FRAMES, lambda done, total: told.append((done, total)))
    height, width = grid_of(SIZES[1])
    assert found.labels.shape == (len(views), 3, height, width)
    assert found.views == tuple(views)
    assert told[-1][0] == told[-1][1]
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in before.items())
    plain = probabilities(source, inputs(FRAMES[:3], Preprocess(IDENTITY, "gamma"), SIZES[0]), (height, width))
    own = found.labels[views.index(View("gamma", SIZES[0], 1.0))]
    assert (own == plain.argmax(1)).float().mean() > 0.999
    again = predict(source, IDENTITY, list(reversed(views)), 4, FRAMES[:3], FRAMES)
    assert torch.equal(again.labels.flip(0), found.labels)


def test_the_source_alone_needs_no_statistics() -> None:
    found = predict(ByColor(), IDENTITY, candidates(ByColor(), SIZES), 3, FRAMES[:2], [])
    assert len(found.labels) == 4
