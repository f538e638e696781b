"""Patch entropy as two PyTorch operators, one each way, for autograd, torch.compile and CUDA graphs."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sfda_kernels.patches import cpu


@torch.library.custom_op("sfda_kernels::patch_entropy", mutates_args=())
def patch_entropy(logits: Tensor, grid: int, height: int, width: int, kernels: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy (B, P), rank (B, P) int64 and max_square () of logits (B, K, h, w).

    `kernels`: by the Triton kernels, for fp32, fp16 and bf16, in fp32. Else in chunks of rows, for any floating type
    on the CPU, in fp32 or for float64 logits in float64.
    """
    with torch.cuda.device_of(logits):  # triton launches on the current device
        return _passes(kernels).forward(logits, grid, (height, width))


@patch_entropy.register_fake
def _(logits: Tensor, grid: int, height: int, width: int, kernels: bool) -> tuple[Tensor, Tensor, Tensor]:
    wide = torch.promote_types(logits.dtype, torch.float32)
    patches = (logits.shape[0], grid * grid)
    return (
        logits.new_empty(patches, dtype=wide),
        logits.new_empty(patches, dtype=torch.int64),
        logits.new_empty((), dtype=wide),
    )


@torch.library.custom_op("sfda_kernels::patch_entropy_backward", mutates_args=())
def patch_entropy_backward(
    logits: Tensor,
    grad_entropy: Tensor | None,
    grad_max_square: Tensor | None,
    grid: int,
    height: int,
    width: int,
    kernels: bool,
) -> Tensor:
    """Gradient of the logits, in their type, for upstream gradients (B, P) and (), either of which may be None."""
    with torch.cuda.device_of(logits):
        return _passes(kernels).backward(logits, grad_entropy, grad_max_square, grid, (height, width))


@patch_entropy_backward.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits)


def _passes(kernels: bool) -> ModuleType:
    if not kernels:
        return cpu
    from sfda_kernels.patches import launch  # imports triton

    return launch


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, *ctx.settings = inputs
    ctx.save_for_backward(logits)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(
    ctx: Any, grad_entropy: Tensor | None, _rank: None, grad_max_square: Tensor | None
) -> tuple[Tensor | None, ...]:
    (logits,) = ctx.saved_tensors
    if grad_entropy is None and grad_max_square is None:
        return (None,) * 5
    return patch_entropy_backward(logits, grad_entropy, grad_max_square, *ctx.settings), *(None,) * 4


patch_entropy.register_autograd(_backward, setup_context=_save)
