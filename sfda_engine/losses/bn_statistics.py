"""L_BNS, Eq. 4: batch statistics of synthetic images in the frozen source model against its running statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfda_engine.models.norms import batch_moments, batch_norm_layers

EPSILON = 1e-5
"""Added to variances before their ratio is taken."""


class LayerStatistics(NamedTuple):
    """Mean and biased variance of a batch at the input of one BatchNorm layer, and the stored ones; each (C,)."""

    mean: Tensor
    variance: Tensor
    running_mean: Tensor
    running_variance: Tensor


@contextmanager
def record_statistics(source: nn.Module) -> Iterator[list[LayerStatistics]]:
    """Collect the statistics of every BatchNorm layer that a forward pass inside runs through, in fp32.

    They are those of the batch of all processes, which therefore have to come by here together.

    A layer whose input is 1x1 (ASPP's image pooling) is left out: its batch variance says nothing of the domain.
    """
    recorded: list[LayerStatistics] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (features,) = inputs
        if features[0, 0].numel() == 1:
            return
        assert isinstance(layer, _BatchNorm)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        recorded.append(LayerStatistics(*batch_moments(features), layer.running_mean, layer.running_var))

    handles = [layer.register_forward_pre_hook(record) for layer in batch_norm_layers(source).values()]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def bns_loss(layers: list[LayerStatistics], *, printed: bool = False) -> Tensor:
    """L_BNS: unsquared norms averaged over the layers, or, `printed`, squared norms summed as in Eq. 4.

    Differs from the paper by default: squares summed over all layers let the wide, deep ones drown the rest.
    """
    differences = [
        difference
        for layer in layers
        for difference in (layer.mean - layer.running_mean, layer.variance - layer.running_variance)
    ]
    if printed:
        return torch.stack([difference.square().sum() for difference in differences]).sum()
    return torch.stack([difference.norm() for difference in differences]).sum() / len(layers)


def layer_distance(layer: LayerStatistics) -> Tensor:
    """How far a batch is from the source at one BatchNorm layer: squared, normalized differences of the means plus
    squared log-ratios of the deviations, mean over channels; scalar, 0 where the statistics are equal."""
    spread = layer.running_variance + EPSILON
    means = (layer.mean - layer.running_mean).square() / spread
    deviations = (0.5 * ((layer.variance + EPSILON) / spread).log()).square()
    return (means + deviations).mean()


def pool(batches: list[LayerStatistics]) -> LayerStatistics:
    """Statistics of all batches together from those of each, which are equally large."""
    means = torch.stack([batch.mean for batch in batches])
    variance = torch.stack([batch.variance for batch in batches]).mean(0) + means.var(0, correction=0)
    return batches[0]._replace(mean=means.mean(0), variance=variance)
