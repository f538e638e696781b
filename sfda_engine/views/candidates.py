"""The views to choose from: exposures x sizes x shares, with the untouched source among them at every size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.models.norms import batch_norm_layers
from sfda_engine.models.preprocess import Exposure
from sfda_engine.models.segmenter import SMALLEST, alignment_of, scaled_size
from sfda_engine.views.view import View, by_pixels, pixels

EXPOSURES: tuple[Exposure, ...] = ("none", "gamma")
SCALES = (0.75, 1.0, 1.5, 2.0)
"""Of the stated size: the neighbours that it is compared with, and those that labels may come from. A choice among
these is as good as with 1.25 between them."""
SHARES = (0.0, 0.3, 0.5, 0.7, 1.0)
UPSCALING = 1.5
"""Largest width over the frames' own: networks that learnt from large objects gain from it, though nothing is added."""
TRAINING_PIXELS = 2.5
"""Largest size over the one that the network was trained at, in pixels, where the size is free."""
MOST_PIXELS = 2**19
"""Largest free size where the training size is unknown: 1024x512."""
STEP = 0.75
"""Ratio of the widths of two neighbouring free sizes; FREE_SIZES of them span a factor of 2.4."""
FREE_SIZES = 4
FREE_ALIGNMENT = 32
"""Free sizes keep to multiples of this: no network that halves five times refuses them."""


def stated_sizes(size: ImageSize, frame: ImageSize, alignment: int = 1) -> list[ImageSize]:
    """The stated (width, height) and those around it, the smallest first; none far above the frames' own size."""
    widest = max(size.width, UPSCALING * frame.width)
    scaled = [scaled_size(size, scale, alignment) for scale in SCALES]
    return by_pixels([size, *(other for other in scaled if other.width <= widest)])


def free_sizes(frame: ImageSize, training: ImageSize | None = None, alignment: int = 1) -> list[ImageSize]:
    """Sizes to choose from where none is stated, the smallest first: `frame` is the frames' own (width, height).

    Bounded by the frames' own size times UPSCALING and by what the network was trained at, `training`.
    """
    most = MOST_PIXELS if training is None else TRAINING_PIXELS * pixels(training)
    largest = min(UPSCALING, math.sqrt(most / pixels(frame)))
    step = math.lcm(alignment, FREE_ALIGNMENT)
    factors = [largest * STEP**index for index in range(FREE_SIZES)]
    return by_pixels([ImageSize(*(rounded(side * factor, step) for side in frame)) for factor in factors])


def rounded(side: float, step: int) -> int:
    """The multiple of `step` nearest to `side`, at least one step and SMALLEST."""
    return max(step, SMALLEST, round(side / step) * step)


@torch.no_grad()
def runnable(model: nn.Module, sizes: Sequence[ImageSize], stated: ImageSize | None = None) -> list[ImageSize]:
    """Those of `sizes` (width, height) that a segmenter in eval mode takes, tried on one black frame each.

    UserError where it refuses the stated size, or all of them.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    kept: list[ImageSize] = []
    refusal: Exception | None = None
    for size in sizes:
        try:
            model(torch.zeros(1, 3, *size.hw, device=device))
        except Exception as error:  # a user's network may raise anything
            refusal = error
            if size == stated:
                break
        else:
            kept.append(size)
    if refusal is not None and (not kept or (stated is not None and stated not in kept)):
        what = f"{stated.width}x{stated.height}" if stated else "any of the sizes tried"
        raise UserError(f"target.size: the network refuses {what} ({refusal}); state one that it takes") from refusal
    return kept


def candidates(
    model: nn.Module, sizes: Sequence[ImageSize], exposure: Exposure = "none", shares: Sequence[float] = SHARES
) -> list[View]:
    """Every view of a segmenter at `sizes`; `exposure` is the one that the source states.

    A network without BatchNorm has no statistics to share: its share is always 1. A single layer may matter much.
    """
    shares = shares if batch_norm_layers(model) else (1.0,)
    exposures = dict.fromkeys((exposure, *EXPOSURES))
    return [View(light, size, share) for light, size, share in itertools.product(exposures, sizes, shares)]


def candidate_sizes(
    model: nn.Module, frame: ImageSize, stated: ImageSize | None, training: ImageSize | None = None
) -> list[ImageSize]:
    """The sizes that a segmenter takes around the stated one, or of all where `stated` is None; smallest first."""
    alignment = alignment_of(model)
    sizes = stated_sizes(stated, frame, alignment) if stated else free_sizes(frame, training, alignment)
    return runnable(model, sizes, stated)
