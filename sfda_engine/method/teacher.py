"""The teacher: the source itself, seen through several views, which labels the target frames for the student.

What only one view says is probably wrong: the mean probability over sizes, shares of the source's BN statistics and
mirrorings is better than its best member, and costs nothing at deployment. A mean forgets small classes, so its
log-probabilities are shifted until each class covers the share of pixels that the views give it by themselves; of each
class the least sure pixels stay unlabelled.

Shapes: B frames of a batch, K classes, M sampled pixels, H/W the labels' size, that of the largest view.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from sfda_engine.data.folder import IGNORE
from sfda_engine.data.frame_sample import spread
from sfda_engine.data.images import ImageSize
from sfda_engine.data.readers import Images
from sfda_engine.models.preprocess import Exposure, Normalization, Preprocess
from sfda_engine.models.segmenter import upsample
from sfda_engine.views.probabilities import at_once, inputs, spread_batches
from sfda_engine.views.statistics import Statistics, target_statistics, write_statistics
from sfda_engine.views.view import View, pixels

STATISTICS_FRAMES = 32
CALIBRATION_FRAMES = 128
CALIBRATION_PIXELS = 2048
"""Of each frame."""
KEPT_BYTES = 2**28
"""Probabilities of the frames that calibrate are kept up to this much, and not computed again for their labels."""
DROP = 0.2
"""Share of each class's pixels, the least sure, that stays unlabelled."""
ALIGNMENT_STEPS = 40
EPSILON = 1e-5


@dataclass(frozen=True)
class Teacher:
    """One network under several views."""

    source: nn.Module
    network: nn.Module
    """A copy of the source in eval mode, whose BN statistics each pass writes."""
    views: tuple[View, ...]
    """The chosen start first."""
    statistics: dict[tuple[Exposure, ImageSize], Statistics]
    """Of the target at each exposure and size; none is needed where the source's alone serve."""
    preprocess: dict[Exposure, Preprocess]

    @property
    def size(self) -> ImageSize:
        """(width, height) of the labels."""
        return max((view.size for view in self.views), key=pixels)

    @property
    def batch(self) -> int:
        """Frames that are looked at together."""
        return at_once(self.size)

    @torch.no_grad()
    def logits(self, frames: Sequence[Image.Image], view: View) -> tuple[Tensor, Tensor]:
        """Logits (B, K, h, w) of RGB frames of any size under a view, and of the frames mirrored, mirrored back."""
        statistics = self.statistics.get((view.exposure, view.size), {})
        write_statistics(self.network, self.source, statistics, view.share)
        images = inputs(frames, self.preprocess[view.exposure], view.size)
        return self.network(images).logits.float(), self.network(images.flip(-1)).logits.float().flip(-1)

    def look(self, frames: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """Mean softmax over views and mirrorings (B, K, H, W), and how many pixels (K,) each class wins in them all.

        In all, since a single view may have lost a class that the others see.
        """
        width, height = self.size
        total: Tensor | None = None
        won = torch.zeros(())
        for view in self.views:
            for logits in self.logits(frames, view):
                probabilities = upsample(logits, (height, width)).softmax(1)
                won = won + probabilities.argmax(1).flatten().bincount(minlength=probabilities.shape[1])
                total = probabilities if total is None else total.add_(probabilities)
        assert total is not None
        return total / (2 * len(self.views)), won


@dataclass(frozen=True)
class Calibration:
    """What turns the teacher's mean probabilities into labels."""

    offsets: Tensor
    """(K,) added to the log-probabilities, so that each class wins the share of pixels that the views give it."""
    thresholds: Tensor
    """(K,) least probability, after the offsets, of a pixel labelled with the class."""
    kept: dict[int, Tensor]
    """Mean probabilities (K, H, W) float16 of some frames, by index."""

    def label(self, probabilities: Tensor) -> Tensor:
        """Labels (B, H, W) uint8 of probabilities (B, K, H, W); 255 where the teacher is not sure."""
        confidence, label = shifted(probabilities.float(), self.offsets).max(1)
        return torch.where(confidence < self.thresholds[label], IGNORE, label).to(torch.uint8)


def make_teacher(source: nn.Module, normalization: Normalization, frames: Images, views: Sequence[View]) -> Teacher:
    """Estimate the BN statistics of `views`, the chosen start first, in one pass per exposure and size.

    `source` is a segmenter in eval mode and stays as it is. Without BatchNorm every share is the same.
    """
    device = next((parameter.device for parameter in source.parameters()), torch.device("cpu"))
    network = copy.deepcopy(source).to(memory_format=torch.channels_last)
    preprocess = {view.exposure: Preprocess(normalization, view.exposure).to(device) for view in views}
    sample = [frames.image(index) for index in spread(len(frames), STATISTICS_FRAMES)]
    statistics = {
        (exposure, size): target_statistics(network, spread_batches(sample, preprocess[exposure], size))
        for exposure, size in dict.fromkeys((view.exposure, view.size) for view in views if view.share < 1)
    }
    return Teacher(source, network, tuple(dict.fromkeys(views)), statistics, preprocess)


def calibrate(teacher: Teacher, frames: Images, drop: float = DROP) -> Calibration:
    """Class offsets and thresholds from a sample of the frames and of their pixels; `drop` is 0..1."""
    sampled: list[Tensor] = []
    counts: list[Tensor] = []
    kept: dict[int, Tensor] = {}
    for part in batched(spread(len(frames), CALIBRATION_FRAMES), teacher.batch):
        mean, won = teacher.look([frames.image(index) for index in part])
        sampled.append(sample_pixels(mean))
        counts.append(won)
        room = KEPT_BYTES // (2 * mean[0].numel()) - len(kept)
        kept |= {index: one.half() for index, one in list(zip(part, mean, strict=True))[: max(0, room)]}
    probabilities, won = torch.cat(sampled), torch.stack(counts).sum(0)  # (M, K), (K,)
    offsets = align_shares(probabilities, won / won.sum())
    confidence, label = shifted(probabilities, offsets).max(1)
    thresholds = torch.zeros_like(offsets)
    for index in label.unique().tolist():
        thresholds[index] = confidence[label == index].quantile(drop)
    return Calibration(offsets, thresholds, kept)


def label_frames(
    teacher: Teacher, calibration: Calibration, frames: Images, indices: Sequence[int]
) -> Iterator[Tensor]:
    """Labels (H, W) uint8, 255 where the teacher is not sure, of the frames of `indices`, one after another."""
    for part in batched(indices, teacher.batch):
        missing = [index for index in part if index not in calibration.kept]
        looked = teacher.look([frames.image(index) for index in missing])[0] if missing else ()
        found = calibration.kept | dict(zip(missing, looked, strict=True))
        for index in part:
            yield calibration.label(found[index][None])[0]


def align_shares(probabilities: Tensor, share: Tensor) -> Tensor:
    """Offsets (K,) of the log-probabilities (M, K) with which each class wins `share` (K,) of the pixels.

    Distribution alignment (Berthelot et al., ReMixMatch, 2020) on hard decisions, by damped fixed-point steps: the
    nearest of them.
    """
    logs = (probabilities + EPSILON).log()
    offsets = best = torch.zeros_like(share)
    least = math.inf
    for step in range(ALIGNMENT_STEPS):
        won = (logs + offsets).argmax(1).bincount(minlength=len(share)) / len(logs)
        if (distance := (won - share).abs().sum().item()) < least:  # flat probabilities make the steps swing
            least, best = distance, offsets
        rate = 0.5 * (1 - step / ALIGNMENT_STEPS)
        offsets = offsets + rate * ((share + EPSILON).log() - (won + EPSILON).log())
    return best


def shifted(probabilities: Tensor, offsets: Tensor) -> Tensor:
    """Probabilities (., K, ...) with `offsets` (K,) added to their logarithms, normalized again."""
    shape = (1, -1) + (1,) * (probabilities.ndim - 2)
    return ((probabilities + EPSILON).log() + offsets.view(shape)).softmax(1)


def sample_pixels(maps: Tensor) -> Tensor:
    """Evenly spaced pixels of maps (B, K, H, W): (M, K), about CALIBRATION_PIXELS of each."""
    positions = maps.flatten(2)
    return positions[:, :, :: max(1, positions.shape[2] // CALIBRATION_PIXELS)].transpose(1, 2).flatten(0, 1)


def batched(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """The indices in batches of `size`, the last one smaller."""
    return (indices[first : first + size] for first in range(0, len(indices), size))
