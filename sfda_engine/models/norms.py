"""BatchNorm statistics: find the layers, choose what a pass normalizes with, re-estimate on new frames.

Which statistics a pass uses and whether it writes them decides more here than any loss weight (design, section 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfda_engine.distributed.collectives import gather, processes
from sfda_engine.errors import UserError

Statistics = Literal["running", "batch", "update"]


def batch_norm_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers of a model that carry running statistics, by dotted name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def rests_on_batch_norm(model: nn.Module) -> bool:
    """Whether at least half of a model's normalization layers carry BatchNorm statistics.

    A transformer may have a single one, in its head: what that says of a domain is little, and nothing was calibrated
    on it. Layers of other libraries are recognised by the name of their class.
    """
    norms = [
        layer for layer in model.modules() if "norm" in type(layer).__name__.lower() and not list(layer.children())
    ]
    layers = len(batch_norm_layers(model))
    return layers > 0 and 2 * layers >= len(norms)


def require_batch_norm(model: nn.Module, why: str) -> None:
    """Raise UserError, with `why` it is needed, where a model has no BatchNorm: L_BNS (Eq. 4) has nothing to read."""
    if not batch_norm_layers(model):
        raise UserError(
            f"{why}, and the generator learns the source domain from BatchNorm statistics (Eq. 4), of which this "
            "network has none: leave method.alpha and method.beta at 0, as the preset recommended does"
        )


@contextmanager
def batch_norm_statistics(model: nn.Module, use: Statistics) -> Iterator[None]:
    """Choose the statistics of every BatchNorm layer for the passes inside.

    "running": the stored ones; "batch": those of the batch, stored ones untouched; "update": those of the batch,
    and the stored ones move by each layer's momentum. The layers are put back as they were.
    """
    layers = list(batch_norm_layers(model).values())
    before = [(layer.training, layer.track_running_stats) for layer in layers]
    for layer in layers:
        layer.training = use != "running"
        layer.track_running_stats = use != "batch"
    try:
        yield
    finally:
        for layer, (training, tracked) in zip(layers, before, strict=True):
            layer.training, layer.track_running_stats = training, tracked


@contextmanager
def lent_statistics(model: nn.Module, source: nn.Module) -> Iterator[None]:
    """Let `model` normalize with the running statistics of `source`, which has its layers, for the passes inside.

    None are written. Domain-specific BatchNorm (Chang et al., CVPR 2019): of one network, each domain has its own.
    """
    names = ("running_mean", "running_var")
    pairs = list(zip(batch_norm_layers(model).values(), batch_norm_layers(source).values(), strict=True))
    before = [{name: own._buffers[name] for name in names} for own, _ in pairs]
    for own, origin in pairs:
        own._buffers.update({name: origin._buffers[name] for name in names})
    try:
        with batch_norm_statistics(model, "running"):
            yield
    finally:
        for (own, _), buffers in zip(pairs, before, strict=True):
            own._buffers.update(buffers)


def set_momentum(model: nn.Module, momentum: float | None) -> None:
    """Set the momentum of every BatchNorm layer; None makes the running statistics a cumulative average."""
    for layer in batch_norm_layers(model).values():
        layer.momentum = momentum


def batch_moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,), fp32, of features (B, C, ...) over the batch of all processes; differentiable."""
    variance, mean = torch.var_mean(features.float(), [0, *range(2, features.ndim)], correction=0)
    if processes() == 1:
        return mean, variance
    means, variances = gather(torch.stack([mean, variance])[None]).unbind(1)  # (processes, C)
    mean = means.mean(0)
    return mean, (variances + (means - mean).square()).mean(0)


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm over the batch of all processes. torch's SyncBatchNorm is one for GPUs alone."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any (B, C, ...) will do."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        mean, variance = batch_moments(input)
        if self.training and self.track_running_stats:
            self._write(mean, variance, processes() * input.numel() // input.shape[1])
        scale = (variance + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale
        if self.bias is not None:
            shift = shift + self.bias
        shape = (1, -1) + (1,) * (input.ndim - 2)
        return (input * scale.view(shape) + shift.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _write(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics as torch does: unbiased variance, a cumulative average where momentum is None."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), momentum)


def share_statistics(model: nn.Module) -> None:
    """Give every BatchNorm layer the batch of all processes, in place: a user module may hold on to its layers."""
    if processes() > 1:
        for layer in model.modules():
            if isinstance(layer, _BatchNorm):
                layer.__class__ = GlobalBatchNorm


@torch.no_grad()
def reestimate_statistics(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """BN warm start: replace the running statistics by the cumulative average over `batches` (B, 3, H, W).

    The weights stay as they are (AdaBN, Li et al. 2016). Momentum is left as it was.
    """
    layers = batch_norm_layers(model).values()
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
    set_momentum(model, None)
    try:
        with batch_norm_statistics(model, "update"):
            for images in batches:
                model(images)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@torch.no_grad()
def mix_statistics(model: nn.Module, source: nn.Module, share: float) -> None:
    """Move the running statistics of `model` towards those of `source`: (1 - share) own + share source's.

    Linear in mean and in variance, every layer alike, as Schneider et al. 2020 mix them by sample counts. Both networks
    have the same layers; share is in 0..1.
    """
    for own, origin in zip(batch_norm_layers(model).values(), batch_norm_layers(source).values(), strict=True):
        for name in ("running_mean", "running_var"):
            getattr(own, name).lerp_(getattr(origin, name), share)
