"""BatchNorm statistics of target frames as a network sees them, and their mixture with the source's.

Shapes: B frames of a batch, C channels of a BatchNorm layer.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from sfda_engine.losses.bn_statistics import record_statistics
from sfda_engine.models.norms import batch_norm_layers, batch_norm_statistics, mix_statistics

Statistics = dict[str, tuple[Tensor, Tensor]]
"""Mean and biased variance (C,) float32 by the dotted name of the BatchNorm layer."""


@torch.no_grad()
def target_statistics(model: nn.Module, batches: Iterable[Tensor]) -> Statistics:
    """Statistics of all `batches` (B, 3, H, W), normalized, pooled: the variance includes that between batches.

    Each layer normalizes with its batch while they are read (AdaBN, Li et al. 2016), as no layer knows the pooled ones
    yet. `model` is a segmenter in eval mode and stays as it is. Layers whose input is 1x1 are left out.
    """
    names = {id(layer.running_mean): name for name, layer in batch_norm_layers(model).items()}
    sums: dict[str, Tensor] = {}
    frames: dict[str, int] = {}
    for images in batches:
        with batch_norm_statistics(model, "batch"), record_statistics(model) as layers:
            model(images)
        for layer in layers:
            mean, variance = layer.mean.double(), layer.variance.double()
            moments = torch.stack([mean, variance + mean.square()]) * len(images)
            name = names[id(layer.running_mean)]
            sums[name] = sums[name] + moments if name in sums else moments
            frames[name] = frames.get(name, 0) + len(images)
    statistics: Statistics = {}
    for name, total in sums.items():
        mean, square = total / frames[name]
        statistics[name] = (mean.float(), (square - mean.square()).clamp_min(0).float())
    return statistics


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
