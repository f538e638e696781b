"""What a network says of frames under each view, on one grid that all views share; memory grows with labels alone.

Shapes: V views, N frames, B frames of a batch, K classes, h/w the grid.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from sfda_engine.data.images import ImageSize, resize, to_float_tensor
from sfda_engine.models.preprocess import Normalization, Preprocess
from sfda_engine.models.segmenter import upsample
from sfda_engine.views.statistics import Statistics, target_statistics, write_statistics
from sfda_engine.views.view import View, pixels

GRID_PIXELS = 3 * 2**10
"""Points of a frame at which views are compared: 64x48."""
PIXELS_AT_ONCE = 2**18
"""Frames go through in batches of at most MOST_AT_ONCE and about this many pixels, which bounds the memory."""
MOST_AT_ONCE = 8
LEAST_FOR_STATISTICS = 4
"""Frames that a BatchNorm layer normalizes together while its statistics are estimated, where they are large."""

Progress = Callable[[int, int], None]
"""Told how many of how many units of work are done."""


class Look(NamedTuple):
    """What one view says of B frames, on the grid."""

    labels: Tensor
    """(B, h, w) uint8 arg-max."""
    confidence: Tensor
    """(B, h, w) uint8, the largest probability in steps of 1/255."""


@dataclass(frozen=True)
class Predictions:
    """What the source says of some frames under each view."""

    views: tuple[View, ...]
    classes: int
    labels: Tensor
    """(V, N, h, w) uint8."""
    confidence: Tensor
    """(V, N, h, w) uint8, in steps of 1/255."""

    def first(self, count: int) -> Predictions:
        """Of the first `count` frames alone."""
        return replace(self, labels=self.labels[:, :count], confidence=self.confidence[:, :count])


def grid_of(size: ImageSize) -> tuple[int, int]:
    """(h, w) of about GRID_PIXELS points in the aspect of `size` (width, height)."""
    scale = math.sqrt(GRID_PIXELS / pixels(size))
    return max(1, round(size.height * scale)), max(1, round(size.width * scale))


def at_once(size: ImageSize) -> int:
    """Frames of a batch at `size` (width, height), 1 to MOST_AT_ONCE."""
    return max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // pixels(size)))


def inputs(frames: Sequence[Image.Image], preprocess: Preprocess, size: ImageSize) -> Tensor:
    """Normalized (B, 3, height, width) float32 of RGB frames of any size, on the device of `preprocess`."""
    images = torch.stack([to_float_tensor(resize(frame, size)) for frame in frames]).to(preprocess.mean.device)
    return preprocess(images).contiguous(memory_format=torch.channels_last)


def spread_batches(frames: Sequence[Image.Image], preprocess: Preprocess, size: ImageSize) -> Iterator[Tensor]:
    """Inputs of all frames in batches that are each spread over them: each has statistics much like the whole's."""
    count = math.ceil(len(frames) / max(LEAST_FOR_STATISTICS, at_once(size)))
    return (inputs(frames[first::count], preprocess, size) for first in range(count))


@torch.no_grad()
def probabilities(model: nn.Module, images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Softmax (B, K, h, w) float32 on the grid (h, w) of images (B, 3, H, W), normalized."""
    return upsample(model(images).logits.float(), grid).softmax(1)


def mirrored_mean(model: nn.Module, images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mean `probabilities`, on the grid (h, w), of images and of their mirror images: for labels; a choice is no better
    for it."""
    return (probabilities(model, images, grid) + probabilities(model, images.flip(-1), grid).flip(-1)) / 2


def look(maps: Tensor) -> Look:
    """Labels and confidence of probabilities (B, K, h, w), on the CPU."""
    confidence, labels = maps.max(1)
    return Look(labels.byte().cpu(), (255 * confidence).round().byte().cpu())


def looks(
    model: nn.Module,
    source: nn.Module,
    preprocess: Preprocess,
    size: ImageSize,
    statistics: Statistics,
    shares: Sequence[float],
    frames: Sequence[Image.Image],
    grid: tuple[int, int],
) -> dict[float, Look]:
    """What the source says of all frames at one exposure and size, by share, on the grid (h, w). `model` is a copy
    of it to write on."""
    found: dict[float, list[Look]] = {share: [] for share in shares}
    count = at_once(size)
    for first in range(0, len(frames), count):
        images = inputs(frames[first : first + count], preprocess, size)
        for share in shares:  # within the batch: its inputs are made once
            write_statistics(model, source, statistics, share)
            found[share].append(look(probabilities(model, images, grid)))
    return {share: Look(*map(torch.cat, zip(*batches, strict=True))) for share, batches in found.items()}


def predict(
    source: nn.Module,
    normalization: Normalization,
    views: Sequence[View],
    classes: int,
    frames: Sequence[Image.Image],
    statistics_frames: Sequence[Image.Image],
    progress: Progress = lambda done, total: None,
) -> Predictions:
    """Run a segmenter of K `classes` in eval mode, which stays as it is, on RGB `frames` under every view.

    The target's statistics are those of `statistics_frames`, estimated once per exposure and size. Progress counts
    the pixels of the exposures and sizes that are done.
    """
    scenes = list(dict.fromkeys((view.exposure, view.size) for view in views))
    grid = grid_of(max((size for _, size in scenes), key=pixels))
    total, done = sum(pixels(size) for _, size in scenes), 0
    model = copy.deepcopy(source).to(memory_format=torch.channels_last)
    device = next((parameter.device for parameter in source.parameters()), torch.device("cpu"))
    found: dict[View, Look] = {}
    for exposure, size in scenes:
        preprocess = Preprocess(normalization, exposure).to(device)
        shares = [view.share for view in views if (view.exposure, view.size) == (exposure, size)]
        mixed = any(share < 1 for share in shares)
        batches = spread_batches(statistics_frames, preprocess, size) if mixed else ()
        statistics = target_statistics(model, batches)
        by_share = looks(model, source, preprocess, size, statistics, shares, frames, grid)
        found |= {View(exposure, size, share): seen for share, seen in by_share.items()}
        done += pixels(size)
        progress(done, total)
    return Predictions(tuple(views), classes, *map(torch.stack, zip(*(found[view] for view in views), strict=True)))
