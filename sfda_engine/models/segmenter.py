"""The contract every segmenter keeps: images in, logits and encoder features out; one upsample for all."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError

ALIGNMENT = 32
"""Parts of an image that begin on multiples of this many pixels begin on whole cells of every network's outputs."""


SMALLEST = 32
"""Pixels of a side: architectures that halve five times see nothing below."""


class SegmenterOutput(NamedTuple):
    """What a segmenter's `forward(images (B, 3, H, W), normalized)` returns."""

    logits: Tensor
    """(B, K, h, w) class scores before softmax, at the head's own resolution."""
    features: Tensor
    """(B, C, h', w') encoder features F, the input of the dual attention module."""


def alignment_of(model: nn.Module) -> int:
    """What the sides of images that a segmenter takes may have to be multiples of: 1 but for a user's own network."""
    return getattr(model, "alignment", 1)


def scaled_size(size: ImageSize, scale: float, alignment: int = 1) -> ImageSize:
    """`size` (width, height) times `scale`, rounded; no side falls below SMALLEST that was not there before.

    Sides stay multiples of what they and `alignment` are both multiples of, and differ by one such step at least.
    """

    def scaled(side: int) -> int:
        step = math.gcd(side, alignment)
        own, steps = side // step, round(side * scale / step)
        steps = max(steps, own + 1) if scale > 1 else min(steps, own - 1) if scale < 1 else own
        return max(min(side, SMALLEST), steps * step)

    return ImageSize(*map(scaled, size))


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, K, h, w) logits to (B, K, H, W), `size` = (H, W): bilinear, corners not aligned."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


@torch.no_grad()
def check_forward(model: nn.Module, size: ImageSize) -> None:
    """Run a model (put in eval mode) on one empty frame of `size` (width, height), before anything is written.

    Raises UserError where it fails, as a user module may.
    """
    try:
        model.eval()(torch.zeros(1, 3, *size.hw))
    except (RuntimeError, ValueError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"the network fails on a frame of {size.width}x{size.height} ({first}); try another size"
        ) from error
