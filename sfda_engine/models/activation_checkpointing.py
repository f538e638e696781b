"""Activation checkpointing: keep a block's input alone, and compute its inside again in the backward pass.

Trades about one more forward pass of the student for most of its activations. The second computation repeats the first:
the same BatchNorm statistics and frozen weights, whatever is set by then; running statistics are written once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from sfda_engine.errors import UserError
from sfda_engine.models.norms import batch_norm_layers

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def checkpoint_activations(model: nn.Module) -> None:
    """Let the blocks of a model be computed again in every backward pass; its state dict stays as it is.

    UserError where the model has no blocks, as `blocks_of` finds them.
    """
    blocks = list(blocks_of(model))
    if not blocks:
        raise UserError(
            "model.activation_checkpointing: this network has no blocks (composite members of a Sequential, ModuleList "
            "or ModuleDict); set it to false"
        )
    for block in blocks:
        block.forward = partial(_forward, block, block.forward)


def blocks_of(module: nn.Module) -> Iterator[nn.Module]:
    """The members of containers that have layers of their own: residual blocks, ASPP, decoder stages."""
    for child in module.children():
        divisible = isinstance(child, CONTAINERS) and any(map(_is_composite, child.children()))
        if isinstance(module, CONTAINERS) and _is_composite(child) and not divisible:
            yield child
        else:
            yield from blocks_of(child)


def _is_composite(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _forward(block: nn.Module, forward: Any, *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, block))


def _contexts(block: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """For the first computation nothing; for the second, the block as the first one finds it."""
    statistics = [(layer.training, layer.track_running_stats) for layer in batch_norm_layers(block).values()]
    trained = [parameter.requires_grad for parameter in block.parameters()]
    return nullcontext(), _as_it_was(block, statistics, trained)


@contextmanager
def _as_it_was(block: nn.Module, statistics: list[tuple[bool, bool]], trained: list[bool]) -> Iterator[None]:
    """Put back what layers were set to and which weights had gradients; running statistics are written to copies."""
    layers, parameters = list(batch_norm_layers(block).values()), list(block.parameters())
    settings = [(layer.training, layer.track_running_stats) for layer in layers]
    buffers = [dict(layer.named_buffers(recurse=False)) for layer in layers]
    gradients = [parameter.requires_grad for parameter in parameters]
    for layer, own, (training, tracked) in zip(layers, buffers, statistics, strict=True):
        layer.training, layer.track_running_stats = training, tracked
        for name, buffer in own.items():
            setattr(layer, name, buffer.clone())
    for parameter, needed in zip(parameters, trained, strict=True):
        parameter.requires_grad_(needed)
    try:
        yield
    finally:
        for layer, own, (training, tracked) in zip(layers, buffers, settings, strict=True):
            layer.training, layer.track_running_stats = training, tracked
            for name, buffer in own.items():
                setattr(layer, name, buffer)
        for parameter, needed in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(needed)
