"""Small segmenters whose answers are known."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor, nn

from sfda_engine.models.preprocess import Normalization
from sfda_engine.models.segmenter import SegmenterOutput

IDENTITY = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class ByColor(nn.Module):
    """Logits are the colors themselves, at half the resolution; takes sides in multiples of `multiple`."""

    def __init__(self, multiple: int = 2, scale: float = 1.0) -> None:
        super().__init__()
        self.alignment, self.scale = multiple, scale

    def forward(self, images: Tensor) -> SegmenterOutput:
        if images.shape[-1] % self.alignment or images.shape[-2] % self.alignment:
            raise ValueError(tuple(images.shape))
        return SegmenterOutput(self.scale * nn.functional.avg_pool2d(images, 2), images)


class Normalized(nn.Module):
    """Two BatchNorm layers without a convolution between, so that the statistics of both have a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.second = nn.BatchNorm2d(3)
        self.pooled = nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> SegmenterOutput:
        features = self.second(self.first(images))
        return SegmenterOutput(features + self.pooled(features.mean((2, 3), keepdim=True)), features)


def frame(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """RGB noise of one brightness of its own."""
    generator = np.random.default_rng(seed)
    low = int(generator.integers(0, 150))
    return Image.fromarray(generator.integers(low, low + 100, (size[1], size[0], 3), dtype=np.uint8))
