"""Launches the Triton kernels of `patch_columns`: block sizes, scratch memory, outputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor

from sfda_kernels import patch_columns
from sfda_kernels.backend import interpreted

STRIP_ROWS = 16
"""Most rows that a forward program walks: longer strips reuse loads, shorter ones fill a GPU at small batches."""


def forward(logits: Tensor, grid: int, size: tuple[int, int], align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy (B, P) fp32, rank (B, P) int64 and max_square () fp32 of logits (B, K, h, w) at `size` (H, W)."""
    batch, classes, *low = logits.shape
    height, width = size
    strips = triton.cdiv(triton.cdiv(height, grid), STRIP_ROWS)
    blocks = _blocks(classes, width)
    new = partial(torch.empty, device=logits.device, dtype=torch.float32)
    sums = new(batch, grid * strips, 2, width)
    patch_columns.sums_kernel[(triton.cdiv(width, blocks["BX"]), grid * strips, batch)](
        logits, *logits.stride(), sums, classes, *low, height, width, grid, strips,
        ROWS=STRIP_ROWS, IDENTITY=tuple(low) == size, ALIGN=align_corners, **blocks,
    )  # fmt: skip
    entropy = new(batch, grid * grid)
    rank = torch.empty(batch, grid * grid, device=logits.device, dtype=torch.int64)
    squares = new(grid * grid)
    images = triton.next_power_of_2(batch)
    patch_columns.rank_kernel[(grid * grid,)](
        sums, entropy, rank, squares, batch, height, width, grid, strips, -0.5 / (batch * height * width),
        BB=images, BX=max(16, min(128, 2048 // images)),
    )  # fmt: skip
    return entropy, rank, squares.sum()


def backward(
    logits: Tensor,
    grad_entropy: Tensor | None,
    grad_max_square: Tensor | None,
    grid: int,
    size: tuple[int, int],
    align_corners: bool,
) -> Tensor:
    """Gradient of the logits, in their type, for upstream gradients (B, P) and ()."""
    batch, classes, *low = logits.shape
    height, width = size
    identity = tuple(low) == size
    gradient = torch.empty_like(logits)
    out = gradient
    if not identity:
        out = torch.empty(batch, classes, 2 * low[0], width, device=logits.device, dtype=torch.float32)
    blocks = _blocks(classes, width)
    upstream_strides = (0, 0) if grad_entropy is None else grad_entropy.stride()
    patch_columns.gradient_kernel[(triton.cdiv(width, blocks["BX"]), low[0], batch)](
        logits, *logits.stride(), grad_entropy, *upstream_strides, grad_max_square, out, *out.stride(),
        classes, *low, height, width, grid, -1.0 / (batch * height * width),
        IDENTITY=identity, ALIGN=align_corners, **blocks,
    )  # fmt: skip
    if not identity:
        blocks = _blocks(classes, low[1])
        patch_columns.gather_kernel[(triton.cdiv(low[1], blocks["BX"]), low[0], batch)](
            out, *out.stride()[:2], gradient, *gradient.stride(), classes, low[1], width, ALIGN=align_corners, **blocks
        )
    return gradient


def _blocks(classes: int, columns: int) -> dict[str, Any]:
    """Classes and columns of a program and its warps: 32 values of a tile a thread, a thread a column up to K = 32."""
    block_classes = triton.next_power_of_2(classes)
    if interpreted():  # a program costs the interpreter the same at any size
        return {"BK": block_classes, "BX": min(triton.next_power_of_2(columns), 512), "num_warps": 4}
    block_columns = max(32, 128 // max(1, block_classes // 32))
    return {
        "BK": block_classes,
        "BX": block_columns,
        "num_warps": min(16, max(4, block_classes * block_columns // 1024)),
    }
