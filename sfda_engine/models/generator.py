"""The generator G of Eq. 3: noise to source-like samples, convolutional so that any size can be asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

LATENT_DIM = 256
MIN_UPSAMPLINGS = 3
MAX_START = 12


def count_upsamplings(size: tuple[int, int]) -> int:
    """Doublings from the start grid to `size`: at least 3, until the grid's short side is under 12 cells."""
    count = MIN_UPSAMPLINGS
    while math.ceil(min(size) / 2**count) >= MAX_START:
        count += 1
    return count


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Double the size, then 3x3 convolution, batch norm, leaky ReLU."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.2),
    )


@dataclass(frozen=True)
class View:
    """What a synthetic batch shows, sides as (h, w): a whole frame, drawn at `size`; or, where `corner` (top, left) is
    given, the window of that size of a frame at its native scale."""

    size: tuple[int, int]
    corner: tuple[int, int] | None = None

    def of_features(self, features: Tensor, frame: tuple[int, int]) -> Tensor:
        """The part (B, C, h', w') of the features of a frame (H, W) that is to be compared with the synthetic image's.

        A shrunken frame stands for all of it. A native window stands for the same window: pooled to one grid, a street
        of forty cars and one of four would have to look alike.
        """
        if self.corner is None:
            return features
        (top, bottom), (left, right) = (
            (start * cells // side, math.ceil((start + length) * cells / side))
            for start, length, cells, side in zip(self.corner, self.size, features.shape[-2:], frame, strict=True)
        )
        return features[..., top:bottom, left:right]


class Generator(nn.Module):
    """x~ = G(z) (Eq. 3): forward: z (B, latent_dim) float32 -> (B, 3, h, w) in normalized input space.

    The last batch norm has no affine part: samples have mean 0 and variance 1 per channel, the moments of
    normalized source images. `size` is (h, w), each at least 8; the center is cropped from whole start cells.

    z becomes a grid of start cells, everything behind it is convolutional, so the same weights draw every `View`: a
    whole frame of another size, for which the grid is resampled (the same layout, in more or fewer pixels); or a window
    of the frame of `size`, for which the grid is cut (the same pixels as in the whole, for the cost of the window).
    """

    def __init__(self, size: tuple[int, int], latent_dim: int = LATENT_DIM, width: int = 64) -> None:
        super().__init__()
        if min(size) < 8:
            raise ValueError(f"synthetic size {size} (h, w) must be at least 8 x 8")
        count = count_upsamplings(size)
        self.size = size
        self.latent_dim = latent_dim
        self.cell = 2**count
        self.start = self._cells(size)
        self.project = nn.Linear(latent_dim, 2 * width * self.start[0] * self.start[1])
        self.start_norm = nn.BatchNorm2d(2 * width)
        widths = [2 * width, 2 * width] + [width] * (count - 1)
        self.blocks = nn.Sequential(*(block(i, o) for i, o in pairwise(widths)))
        self.to_image = nn.Conv2d(width, 3, 3, padding=1)
        self.image_norm = nn.BatchNorm2d(3, affine=False)

    def forward(self, z: Tensor, view: View | None = None) -> Tensor:
        view = view or View(self.size)
        grid = self.project(z).view(z.shape[0], -1, *self.start)
        frame = self.size if view.corner else view.size
        cells = self._cells(frame)
        if cells != self.start:
            grid = functional.interpolate(grid, cells, mode="bilinear", align_corners=False)
        margin = [(count * self.cell - side) // 2 for count, side in zip(cells, frame, strict=True)]
        corner = [start + skipped for start, skipped in zip(view.corner or (0, 0), margin, strict=True)]
        rows, columns = (
            _needed(start, start + length, len(self.blocks), count * self.cell)
            if view.corner
            else [(0, count * 2**level) for level in range(len(self.blocks) + 1)]
            for start, length, count in zip(corner, view.size, cells, strict=True)
        )
        x, at = self.start_norm(grid), (0, 0)
        for layer, own_rows, own_columns in zip(self.blocks, rows, columns, strict=False):
            x = layer(_cut(x, own_rows, own_columns, at))
            at = (2 * own_rows[0], 2 * own_columns[0])
        x = self.to_image(_cut(x, rows[-1], columns[-1], at))
        top, left = corner[0] - rows[-1][0], corner[1] - columns[-1][0]
        return self.image_norm(x[..., top : top + view.size[0], left : left + view.size[1]])

    def _cells(self, size: tuple[int, int]) -> tuple[int, int]:
        return math.ceil(size[0] / self.cell), math.ceil(size[1] / self.cell)


def _needed(first: int, end: int, doublings: int, side: int) -> list[tuple[int, int]]:
    """Pixels [first, end) of an image `side` long need these [first, end) before each doubling, and before the last
    convolution: each 3x3 convolution looks one pixel around, but not past the border, where it pads."""
    spans = [(max(first - 1, 0), min(end + 1, side))]
    for _ in range(doublings):
        first, end = spans[0]
        first, end = max(first - 1, 0), min(end + 1, side)
        spans.insert(0, (first // 2, math.ceil(end / 2)))
        side //= 2
    return spans


def _cut(x: Tensor, rows: tuple[int, int], columns: tuple[int, int], at: tuple[int, int]) -> Tensor:
    """Rows and columns [first, end) of a whole whose part `x` begins at `at`."""
    return x[..., rows[0] - at[0] : rows[1] - at[0], columns[0] - at[1] : columns[1] - at[1]]
