"""Augmented views: geometry and light of each, their entropy against its closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sfda_engine.models.preprocess import Normalization, Preprocess
from sfda_engine.models.segmenter import SegmenterOutput, scaled_size
from sfda_engine.views.augmented import (
    PIXELS_AT_ONCE,
    VIEWS,
    batches,
    entropy,
    view_probabilities,
    views,
)

SIZE = (64, 48)  # width, height
PREPROCESS = Preprocess(Normalization(), "gamma")


class ByPixel(nn.Module):
    """Logits are a fixed linear map of each pixel's color: a prediction moves and darkens as its pixel does."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, images: Tensor) -> SegmenterOutput:
        return SegmenterOutput(self.weight * images, images)


def frame(seed: int = 0, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """Smooth colors, so that resizing hardly changes them."""
    coarse = np.random.default_rng(seed).integers(20, 236, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def test_views_are_seen_at_their_size_and_in_their_light() -> None:
    seen = {view.name: view.images for view in views([frame(0), frame(1)], PREPROCESS, SIZE)}
    sizes = {"larger": (60, 80), "smaller": (36, 48)}  # height, width
    assert {name: images.shape for name, images in seen.items()} == {
        name: (2, 3, *sizes.get(name, (48, 64))) for name in VIEWS
    }
    plain = seen["plain"]
    torch.testing.assert_close(seen["mirrored"], plain.flip(-1))
    torch.testing.assert_close(seen["darker"], plain * 0.8)
    torch.testing.assert_close(seen["brighter"], (plain * 1.2).clamp(max=1.0))
    luma = (plain * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    assert luma.mean((1, 2)).tolist() == pytest.approx([0.45, 0.45], abs=0.02)  # exposure came before brightness


def test_every_view_is_laid_back_over_the_plain_frame() -> None:
    maps = dict(view_probabilities(ByPixel(), PREPROCESS, [frame()], SIZE))
    assert all(map_.shape == (1, 3, 48, 64) for map_ in maps.values())
    torch.testing.assert_close(maps["mirrored"], maps["plain"])
    for name in ("larger", "smaller"):
        assert (maps[name] - maps["plain"]).abs().mean() < 0.02 < (maps[name].flip(-1) - maps["plain"]).abs().mean()


def test_a_view_keeps_architectures_that_halve_five_times_alive() -> None:
    assert scaled_size((128, 96), 0.75) == (96, 72)
    assert scaled_size((40, 32), 0.75) == (32, 32)
    assert scaled_size((128, 96), 0.75, 32) == (96, 64)
    assert scaled_size((160, 120), 1.25, 32) == (192, 152)
    assert scaled_size((64, 32), 1.25, 32) == (96, 64)  # not the same again
    assert scaled_size((64, 32), 0.75, 32) == (32, 32)
    assert scaled_size((64, 32), 1.0, 32) == (64, 32)
    assert scaled_size((16, 64), 0.75) == (16, 48)


def test_entropy_equals_its_closed_form() -> None:
    probabilities = torch.tensor([[0.25, 0.25, 0.5], [1.0, 0.0, 0.0]]).view(2, 3, 1, 1)
    assert entropy(probabilities).flatten().tolist() == pytest.approx([1.5 * math.log(2), 0.0], abs=1e-6)


def test_batches_hold_all_frames_in_order_and_fewer_of_large_ones() -> None:
    frames = [frame(seed, (8, 8)) for seed in range(10)]
    assert [len(batch) for batch in batches(frames, SIZE)] == [8, 2]
    assert [one for batch in batches(frames, SIZE) for one in batch] == frames
    assert [len(batch) for batch in batches(frames, (PIXELS_AT_ONCE, 2))] == [1] * 10
