"""Which input convention a network was trained with, told from its BatchNorm statistics and a few frames.

Range, mean and std: the stored statistics of the first BatchNorm layer know how large the source's inputs were, and
every convention puts the frames at some distance from them. Channel order: a color cast of the target moves those
statistics as much as a swap of red and blue does, so it is told by the whole network once its statistics are
re-estimated on the frames (BN warm start), which takes cast and scale away: in the right order it is surer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from sfda_engine.losses.bn_statistics import LayerStatistics, layer_distance, pool, record_statistics
from sfda_engine.models.norms import batch_norm_layers, reestimate_statistics
from sfda_engine.models.preprocess import Normalization, Preprocess

Order = Literal["rgb", "bgr"]
Triple = tuple[float, float, float]

BATCH = 8

# Mean and std of red, green and blue, and the value of white.
SCALES: dict[str, tuple[Triple, Triple, float]] = {
    "values 0-1, ImageNet's mean and std": (Normalization().mean, Normalization().std, 1.0),
    "values 0-1, no mean and std": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0),
    "values 0-1, mean and std 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0),
    "values 0-255, no mean and std": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 255.0),
    "values 0-255, ImageNet's mean, no std (Caffe)": ((123.675, 116.28, 103.53), (1.0, 1.0, 1.0), 255.0),
}


class Fit(NamedTuple):
    """A convention and the distance of the frames from the first BatchNorm layer's statistics under it."""

    name: str
    normalization: Normalization
    distance: float


@dataclass(frozen=True)
class ConventionFits:
    """What was measured of the input convention."""

    entropy: dict[Order, float]
    """Mean entropy (nats) of the predictions after a BN warm start, by channel order; the right order has the lower."""
    stated: dict[Order, Fit]
    """The stated range, mean and std in each channel order."""
    others: dict[Order, tuple[Fit, ...]]
    """Other conventions in each channel order, nearest first."""


@torch.no_grad()
def source_distance(model: nn.Module, inputs: Iterable[Tensor]) -> float:
    """Mean over BatchNorm layers of `layer_distance`; `inputs` are normalized batches (B, 3, H, W) of one size."""
    passes: list[list[LayerStatistics]] = []
    for images in inputs:
        with record_statistics(model) as layers:
            model(images)
        passes.append(layers)
    return torch.stack([layer_distance(pool(list(same))) for same in zip(*passes, strict=True)]).mean().item()


class _Reached(Exception):
    """Ends a forward pass at the first BatchNorm layer."""


@torch.no_grad()
def first_layer_distance(model: nn.Module, inputs: Iterable[Tensor]) -> float:
    """`layer_distance` of the first BatchNorm layer that runs; passes end there. `inputs` as in `source_distance`."""
    recorded: list[LayerStatistics] = []

    def stop(*_: object) -> None:
        raise _Reached

    for images in inputs:
        with record_statistics(model) as layers:
            # hooked after the recorder, so it runs after it
            handles = [layer.register_forward_pre_hook(stop) for layer in batch_norm_layers(model).values()]
            try:
                model(images)
            except _Reached:
                pass
            finally:
                for handle in handles:
                    handle.remove()
        recorded += layers
    return layer_distance(pool(recorded)).item()


@torch.no_grad()
def warm_entropy(model: nn.Module, inputs: list[Tensor]) -> float:
    """Mean entropy (nats) of the predictions of a copy of `model` whose BN statistics are those of `inputs`."""
    warm = copy.deepcopy(model)
    reestimate_statistics(warm, inputs)
    entropies = []
    for images in inputs:
        log_probabilities = warm(images).logits.float().log_softmax(1)
        entropies.append(-(log_probabilities.exp() * log_probabilities).sum(1).mean())
    return torch.stack(entropies).mean().item()


def reordered(normalization: Normalization, order: Order) -> Normalization:
    """The same convention in another channel order; mean and std stay with their colors."""
    if normalization.channel_order == order:
        return normalization
    mean, std = normalization.mean, normalization.std
    return replace(normalization, mean=mean[::-1], std=std[::-1], channel_order=order)


def other_conventions(stated: Normalization) -> dict[str, Normalization]:
    """Conventions of the stated channel order that scale or shift the input otherwise than the stated one."""
    white = 1.0 if stated.value_range == 255.0 else 255.0
    candidates = {
        name: reordered(Normalization(mean, std, "rgb", value_range), stated.channel_order)
        for name, (mean, std, value_range) in SCALES.items()
    }
    candidates[f"values 0-{white:.0f}, the stated mean and std"] = replace(stated, value_range=white)
    different: dict[str, Normalization] = {}
    for name, candidate in candidates.items():
        if not any(equivalent(candidate, other) for other in (stated, *different.values())):
            different[name] = candidate
    return different


def equivalent(one: Normalization, other: Normalization) -> bool:
    """Whether two conventions of one channel order map black and white alike, to 2 % of their difference."""
    for mean, std, other_mean, other_std in zip(one.mean, one.std, other.mean, other.std, strict=True):
        gain, other_gain = one.value_range / std, other.value_range / other_std
        black, other_black = -mean / std, -other_mean / other_std
        if max(abs(gain - other_gain), abs(black - other_black)) > 0.02 * gain:
            return False
    return True


def fit_conventions(model: nn.Module, frames: Tensor, stated: Normalization) -> ConventionFits:
    """Measure the stated convention and others in both channel orders.

    model: a segmenter in eval mode, left as it is. frames: float32 (N, 3, H, W) RGB in [0, 1], N at least 2 (a
    BatchNorm layer at 1x1 cannot be re-estimated on one).
    """
    entropy: dict[Order, float] = {}
    stated_fits: dict[Order, Fit] = {}
    others: dict[Order, tuple[Fit, ...]] = {}
    orders: tuple[Order, Order] = ("rgb", "bgr")
    for order in orders:
        convention = reordered(stated, order)

        def fit(name: str, normalization: Normalization) -> Fit:
            return Fit(name, normalization, first_layer_distance(model, normalized(frames, normalization)))

        entropy[order] = warm_entropy(model, normalized(frames, convention, batch=BATCH))
        stated_fits[order] = fit("as stated", convention)
        fits = [fit(name, other) for name, other in other_conventions(convention).items()]
        others[order] = tuple(sorted(fits, key=lambda found: found.distance))
    return ConventionFits(entropy, stated_fits, others)


def normalized(frames: Tensor, normalization: Normalization, batch: int = 1) -> list[Tensor]:
    """Batches of at most `batch` frames as the network gets them under a convention, nearly equal in length."""
    preprocess = Preprocess(normalization).to(frames.device)
    return [preprocess(images) for images in frames.tensor_split(math.ceil(len(frames) / batch))]
