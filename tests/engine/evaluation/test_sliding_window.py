"""Windows cover the image as promised, and their logits are the whole image's wherever the receptive field fits."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sfda_engine.errors import UserError
from sfda_engine.evaluation.sliding_window import Window, check_windows, spans, window_logits
from sfda_engine.models.segmenter import ALIGNMENT, SegmenterOutput


class Small(nn.Module):
    """Two 3x3 convolutions of stride 2: a cell sees 3 pixels to its left and above, 3 beyond its own 4."""

    def __init__(self, first: int = 2, second: int = 2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 5, 3, first, 1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3, second, 1)
        )
        self.largest = 0

    def forward(self, images: Tensor) -> SegmenterOutput:
        self.largest = max(self.largest, images[0, 0].numel())
        logits = self.layers(images)
        return SegmenterOutput(logits, logits)


def network() -> Small:
    torch.manual_seed(0)
    return Small().eval().double()


@settings(max_examples=200, deadline=None)
@given(side=st.integers(32, 700), window=st.integers(1, 8), overlap=st.floats(0, 0.99))
def test_spans_cover_the_side_with_the_overlap(side: int, window: int, overlap: float) -> None:
    length = window * ALIGNMENT
    found = spans(side, length, overlap)
    assert found[0][0] == 0
    assert found[-1][1] == side
    assert all(first % ALIGNMENT == 0 for first, _ in found)
    assert all(end - first <= max(side if length >= side else 0, length + ALIGNMENT - 1) for first, end in found)
    for (first, end), (following, _) in pairwise(found):
        assert following > first
        assert end - following >= min(overlap * length, length - ALIGNMENT) - 1e-6


@pytest.mark.parametrize("size", [(128, 192), (150, 201)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_equal_to_the_whole_image_away_from_window_borders(size: tuple[int, int], overlap: float) -> None:
    model, window = network(), Window(96, 64, overlap)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    whole = model(images).logits
    model.largest = 0
    found = window_logits(model, images, window)
    assert model.largest <= (96 + 31) * (64 + 31)
    touched = torch.zeros(whole.shape[-2:], dtype=torch.bool)  # cells that see a border between windows
    for axis, length in ((0, 64), (1, 96)):
        for first, end in spans(size[axis], length, overlap):
            for border in (first, end):
                if 0 < border < size[axis]:
                    touched.select(axis, border // 4 - 1).fill_(True)
                    touched.select(axis, border // 4).fill_(True)
    assert touched.float().mean() < 0.4
    torch.testing.assert_close(found[..., ~touched], whole.float()[..., ~touched], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found[..., touched], whole.float()[..., touched], rtol=1e-4)


def test_overlaps_are_means() -> None:
    """A network that answers with the mean of what it is shown: an overlap has the mean of the two means."""

    class Mean(nn.Module):
        def forward(self, images: Tensor) -> SegmenterOutput:
            logits = images.mean((2, 3), keepdim=True).expand(-1, -1, images.shape[-2] // 8, images.shape[-1] // 8)
            return SegmenterOutput(logits, logits)

    images = torch.arange(96.0).expand(1, 1, 32, 96)
    found = window_logits(Mean(), images, Window(64, 32, 0.5))[0, 0, 0]
    assert found.tolist() == [31.5] * 4 + [(31.5 + 63.5) / 2] * 4 + [63.5] * 4


def test_a_window_as_large_as_the_image_is_whole_inference() -> None:
    model, images = network(), torch.randn(1, 3, 64, 96, dtype=torch.float64)
    assert torch.equal(window_logits(model, images, Window(96, 64, 0.5)), model(images).logits.float())


def test_a_stride_that_does_not_fit() -> None:
    third = Small(3, 1).eval()
    with pytest.raises(UserError, match=r"evaluate\.window.*stride"):
        window_logits(third, torch.randn(1, 3, 96, 96), Window(64, 64, 0.5))
    with pytest.raises(UserError, match=r"evaluate\.window: .*22 .*64 "):
        check_windows(third, Window(64, 64, 0.5))
    check_windows(Small(4, 1).eval(), Window(64, 64, 0.5))
