"""The generator G of Eq. 3: noise to source-like samples, convolutional so that any size can be asked for."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

LATENT_DIM = 256
MIN_UPSAMPLINGS = 3
MAX_START = 12


def count_upsamplings(size: tuple[int, int]) -> int:
    """Doublings from the start grid to `size` (h, w): at least 3, until the grid's short side is under 12 cells."""
    count = MIN_UPSAMPLINGS
    while math.ceil(min(size) / 2**count) >= MAX_START:
        count += 1
    return count


def width_for(size: tuple[int, int]) -> int:
    """Channels of the finest layers: half of the usual ones are enough for a `size` (h, w) under 100 pixels."""
    return 32 if min(size) < 100 else 64


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Double the size, then 3x3 convolution, batch norm, leaky ReLU."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.2),
    )


class Generator(nn.Module):
    """x~ = G(z) (Eq. 3): forward: z (B, latent_dim) float32 -> (B, 3, h, w) in normalized input space.

    The last batch norm has no affine part: samples have mean 0 and variance 1 per channel, the moments of
    normalized source images. `size` is (h, w), each at least 8; the center is cropped from whole start cells.
    """

    def __init__(self, size: tuple[int, int], latent_dim: int = LATENT_DIM, width: int | None = None) -> None:
        super().__init__()
        if min(size) < 8:
            raise ValueError(f"synthetic size {size} (h, w) must be at least 8 x 8")
        width = width or width_for(size)
        count = count_upsamplings(size)
        self.size = size
        self.latent_dim = latent_dim
        self.start = math.ceil(size[0] / 2**count), math.ceil(size[1] / 2**count)
        self.project = nn.Linear(latent_dim, 2 * width * self.start[0] * self.start[1])
        self.start_norm = nn.BatchNorm2d(2 * width)
        widths = [2 * width, 2 * width] + [width] * (count - 1)
        self.blocks = nn.Sequential(*(block(i, o) for i, o in pairwise(widths)))
        self.to_image = nn.Conv2d(width, 3, 3, padding=1)
        self.image_norm = nn.BatchNorm2d(3, affine=False)

    def forward(self, z: Tensor) -> Tensor:
        grid = self.project(z).view(z.shape[0], -1, *self.start)
        image = self.to_image(self.blocks(self.start_norm(grid)))
        top, left = ((whole - side) // 2 for whole, side in zip(image.shape[-2:], self.size, strict=True))
        return self.image_norm(image[..., top : top + self.size[0], left : left + self.size[1]])
