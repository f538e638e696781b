"""BatchNorm statistics of target frames as a network sees them, and their mixture with the source's.

Shapes: B frames of a batch, C channels of a BatchNorm layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfda_engine.distributed.collectives import processes
from sfda_engine.models.norms import (
    GlobalBatchNorm,
    batch_norm_layers,
    batch_norm_statistics,
    mix_statistics,
    set_momentum,
)

Statistics = dict[str, tuple[Tensor, Tensor]]
"""Mean and biased variance (C,) float32 by the dotted name of the BatchNorm layer."""


@torch.no_grad()
def target_statistics(model: nn.Module, batches: Iterable[Tensor]) -> Statistics:
    """Statistics of all `batches` (B, 3, H, W), normalized, pooled: the variance includes that between batches.

    Each layer normalizes with its batch while they are read (AdaBN, Li et al. 2016), as no layer knows the pooled ones
    yet. `model` is a segmenter in eval mode and stays as it is. Layers whose input is 1x1 are left out.
    """
    model = copy.deepcopy(model)
    set_momentum(model, 1.0)  # what a layer stores is then the last batch alone: half the time of reading its input
    layers = batch_norm_layers(model)
    sums: dict[str, Tensor] = {}
    frames: dict[str, int] = {}
    for images in batches:
        with batch_norm_statistics(model, "update"), values_per_channel(layers) as values:
            model(images)
        for name, count in values.items():
            mean, variance = biased(layers[name], count)
            moments = torch.stack([mean, variance + mean.square()]) * len(images)
            sums[name] = sums[name] + moments if name in sums else moments
            frames[name] = frames.get(name, 0) + len(images)
    statistics: Statistics = {}
    for name, total in sums.items():
        mean, square = total / frames[name]
        statistics[name] = (mean.float(), (square - mean.square()).clamp_min(0).float())
    return statistics


@contextmanager
def values_per_channel(layers: Mapping[str, _BatchNorm]) -> Iterator[dict[str, int]]:
    """Count B * H * W at the input of every layer that runs inside; 1x1 maps are left out."""
    counts: dict[str, int] = {}

    def counter(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def count(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values = inputs[0][:, 0].numel()
            if values > len(inputs[0]):
                counts[name] = values

        return count

    handles = [layer.register_forward_pre_hook(counter(name)) for name, layer in layers.items()]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def biased(layer: _BatchNorm, count: int) -> tuple[Tensor, Tensor]:
    """Stored mean and variance (C,) float64 of a layer, the variance over all its values, `count` in each process."""
    count *= processes() if isinstance(layer, GlobalBatchNorm) else 1
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean.double(), layer.running_var.double() * ((count - 1) / count)


@torch.no_grad()
def write_statistics(model: nn.Module, source: nn.Module, statistics: Statistics, share: float) -> None:
    """Give `model`, of the layers of `source`, the target's statistics mixed with a share (0..1) of the source's.

    At share 1 they are the source's, bit for bit; so are those of layers that `statistics` does not name.
    """
    origins = batch_norm_layers(source)
    for name, layer in batch_norm_layers(model).items():
        own = layer.running_mean, layer.running_var
        origin = origins[name].running_mean, origins[name].running_var
        for buffer, value in zip(own, statistics.get(name, origin), strict=True):
            assert buffer is not None
            assert value is not None
            buffer.copy_(value)
    mix_statistics(model, source, share)
