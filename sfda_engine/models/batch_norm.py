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

from sfda_engine.errors import UserError

Statistics = Literal["running", "batch", "update"]


def batch_norm_layers(model: nn.Module) -> dict[str, _BatchNorm]:
    """The BatchNorm layers of a model that carry running statistics, by dotted name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def require_batch_norm(model: nn.Module, origin: str) -> None:
    """Raise UserError where a model has no BatchNorm: L_BNS (Eq. 4) has nothing to read then."""
    if not batch_norm_layers(model):
        raise UserError(
            f"{origin} has no BatchNorm layer with running statistics. The generator learns the source domain from "
            "them (Eq. 4), so models with LayerNorm or GroupNorm alone, most transformers, cannot be adapted here."
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


def set_momentum(model: nn.Module, momentum: float | None) -> None:
    """Set the momentum of every BatchNorm layer; None makes the running statistics a cumulative average."""
    for layer in batch_norm_layers(model).values():
        layer.momentum = momentum


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
