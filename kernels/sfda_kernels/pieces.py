"""Functions of large tensors in pieces of bounded memory, for the references: what a piece needs is recomputed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MAP_BUDGET = 2**22
"""Most elements of an attention map, or of upsampled logits, held in one piece (16 MiB in fp32)."""

Tensors = tuple[Tensor, ...]


def map_rows(function: Callable[..., Tensor], rows: Tensors, context: Tensors) -> Tensor:
    """`function(*rows, *context)` over the T rows of tensors (B, T, D), in pieces of at most `MAP_BUDGET`.

    A piece is a group of samples, or a group of rows of one sample where a single T x T map is over the
    budget; its maps are recomputed in the backward pass instead of kept.
    """
    batch, count = rows[0].shape[:2]
    if batch * count * count <= MAP_BUDGET:
        return function(*rows, *context)
    samples, height = max(1, MAP_BUDGET // count**2), max(1, MAP_BUDGET // count)
    groups = zip(_split(rows, samples, 0), _split(context, samples, 0), strict=True)
    return torch.cat(
        [
            torch.cat([_recompute(function, *piece, *whole) for piece in _split(group, height, 1)], 1)
            for group, whole in groups
        ]
    )


def map_images(function: Callable[[Tensor], Tensors], images: Tensor, elements: int) -> Tensors:
    """`function(images)` in groups of at most `MAP_BUDGET` elements, or one image, of `elements` each."""
    if len(images) == 1 or len(images) * elements <= MAP_BUDGET:
        return function(images)
    parts = [_recompute(function, group) for group in images.split(max(1, MAP_BUDGET // elements))]
    return tuple(torch.cat(results) for results in zip(*parts, strict=True))


def _split(tensors: Tensors, size: int, dim: int) -> list[Tensors]:
    return list(zip(*(tensor.split(size, dim) for tensor in tensors), strict=True))


def _recompute(function: Callable[..., Any], *tensors: Tensor) -> Any:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)
    return function(*tensors)
