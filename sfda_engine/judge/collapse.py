"""What can be told of a student without labels: its outputs on a few fixed target frames beside those it began with.

The frames are seen as evaluation and the vehicle see them: no augmentation, running BatchNorm statistics. Every process
looks at its share of them; the sums are shared, so that all come to the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor, nn

from sfda_engine.data.frame_sample import spread
from sfda_engine.data.images import ImageSize, resize, to_float_tensor
from sfda_engine.data.readers import Images
from sfda_engine.distributed.collectives import process_index, processes, total
from sfda_engine.losses.bn_statistics import LayerStatistics, layer_distance
from sfda_engine.models.norms import batch_norm_layers

FRAMES = 16
FLOOR = 1e-3
"""Added to entropies (nats) before they are divided: less than that is nothing."""
LEFT, AGREEMENT = 0.3, 0.5
"""A student has collapsed where less than this is `left`, or agrees with its start. Loose on purpose: a published
network that gains by its first steps has no more than 0.66 left, since labels of several views make it surer, and what
is lost more slowly is for the verdict, which sees the snapshots."""
CLASSES = 5
"""Exponent of `classes_kept` in `left`: the histogram of classes moves far less than the entropy of predictions."""


@dataclass(frozen=True)
class Signals:
    """A student beside its start, on the probe frames; entropies in nats, the others 0 to 1 unless they say."""

    class_entropy: float
    """Entropy of the histogram of predicted classes."""
    classes_kept: float
    """Effective number of classes, exp(class_entropy), over that at the start; may exceed 1."""
    entropy: float
    """Mean entropy of the predictions."""
    entropy_kept: float
    """The same over that at the start; may exceed 1."""
    confidence: float
    """Mean of the largest probability."""
    agreement: float
    """Share of the pixels that are labelled as at the start."""
    bn_drift: float
    """Distance of the running BatchNorm statistics from those at the start: mean over layers and channels of the
    squared, normalized difference of the means plus the squared log-ratio of the deviations; from 0."""

    @property
    def left(self) -> float:
        """What is left of the start's spread: 1 at the start, towards 0 where classes vanish and confidence climbs.

        A product, since either alone tells little: self-training that helps makes a student surer and redistributes
        rare classes. The share of the rarest class told less: a class of few pixels may lose half of them in good runs.
        """
        return self.classes_kept**CLASSES * self.entropy_kept

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, vars(self).values()))

    @property
    def collapsed(self) -> bool:
        return self.left < LEFT or self.agreement < AGREEMENT


def signals_of(
    histogram: Tensor, start: Tensor, means: tuple[float, float, float], entropy: float, drift: float
) -> Signals:
    """Signals from shares of predicted classes (K,) float64, now and at the start.

    means: entropy, confidence and agreement, averaged over the pixels; entropy: the start's.
    """
    class_entropy = torch.special.entr(histogram).sum().item()
    return Signals(
        class_entropy=class_entropy,
        classes_kept=math.exp(class_entropy - torch.special.entr(start).sum().item()),
        entropy=means[0],
        entropy_kept=(means[0] + FLOOR) / (entropy + FLOOR),
        confidence=means[1],
        agreement=means[2],
        bn_drift=drift,
    )


def statistics_drift(now: list[tuple[Tensor, Tensor]], start: list[tuple[Tensor, Tensor]]) -> float:
    """`Signals.bn_drift` of running means and variances (C,), a pair a layer; 0 without BatchNorm."""
    if not now:
        return 0.0
    distances = [layer_distance(LayerStatistics(*own, *begun)) for own, begun in zip(now, start, strict=True)]
    return torch.stack(distances).mean().item()


def probe_frames(target: Images, size: ImageSize) -> list[Image]:
    """This process's share, never empty, of the evenly spaced frames, at `size` (width, height)."""
    chosen = spread(len(target), FRAMES)
    own = range(process_index(), max(len(chosen), processes()), processes())
    return [resize(target.image(chosen[index % len(chosen)]), size) for index in own]


class Glance(NamedTuple):
    """What a student says of one batch of frames."""

    labels: Tensor
    """(B, h, w) uint8, the arg-max."""
    sums: Tensor
    """(K + 2,) float64 on the CPU: pixels of each predicted class, entropy and confidence summed over the pixels."""


@torch.no_grad()
def glances(
    student: nn.Module, frames: list[Image], preprocess: Callable[[Tensor], Tensor], batch_size: int
) -> list[Glance]:
    """Run a student in eval mode over frames of one size, `batch_size` at a time."""
    device = next(student.parameters()).device
    found = []
    for first in range(0, len(frames), batch_size):
        images = torch.stack([to_float_tensor(frame) for frame in frames[first : first + batch_size]])
        images = preprocess(images.to(device)).contiguous(memory_format=torch.channels_last)
        logs = student(images).logits.float().log_softmax(1)  # (B, K, h, w)
        confidence, labels = logs.max(1)
        entropy = -(logs.exp() * logs).sum(1)
        means = torch.stack([entropy.sum(), confidence.exp().sum()])
        counts = labels.flatten().bincount(minlength=logs.shape[1])
        found.append(Glance(labels.to(torch.uint8), torch.cat([counts, means]).double().cpu()))
    return found


def shares(now: list[Glance], start: list[Glance]) -> Tensor:
    """(K + 3,) float64 over the pixels of all frames of all processes: the share of each predicted class, mean entropy,
    mean confidence and the share that is labelled as in `start`."""
    same = sum(int((own.labels == begun.labels).sum()) for own, begun in zip(now, start, strict=True))
    pixels = sum(own.labels.numel() for own in now)
    sums = torch.stack([own.sums for own in now]).sum(0)
    summed = total(torch.cat([sums, sums.new_tensor([same, pixels])]))
    return summed[:-1] / summed[-1]


class Probe:
    """Looks at a student on fixed frames, `batch_size` at a time, and compares it with the one it was made with."""

    def __init__(
        self, student: nn.Module, frames: list[Image], preprocess: Callable[[Tensor], Tensor], batch_size: int
    ) -> None:
        self.frames, self.preprocess, self.batch_size = frames, preprocess, batch_size
        self.start_statistics = running_statistics(student)
        self.start = glances(student, frames, preprocess, batch_size)

    def __call__(self, student: nn.Module) -> Signals:
        """The signals of a student in eval mode; every process must call this at the same time."""
        seen = glances(student, self.frames, self.preprocess, self.batch_size)
        now, start = shares(seen, self.start), shares(self.start, self.start)
        classes = len(now) - 3
        entropy, confidence, agreement = now[classes:].tolist()
        return signals_of(
            now[:classes],
            start[:classes],
            (entropy, confidence, agreement),
            start[classes].item(),
            statistics_drift(running_statistics(student), self.start_statistics),
        )


def make_probe(
    student: nn.Module,
    target: Images,
    preprocess: Callable[[Tensor], Tensor],
    *,
    size: ImageSize,
    batch_size: int,
) -> Probe:
    """The probe of a student as it starts, on this process's share of evenly spaced target frames at `size` (w, h)."""
    return Probe(student, probe_frames(target, size), preprocess, batch_size // processes())


def running_statistics(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Copies of the running means and variances (C,) of every BatchNorm layer that has them."""
    pairs = []
    for layer in batch_norm_layers(model).values():
        assert layer.running_mean is not None
        assert layer.running_var is not None
        pairs.append((layer.running_mean.clone(), layer.running_var.clone()))
    return pairs
