"""Launches the Triton kernels of `triton_columns`: tiles, scratch memory, outputs."""

from __future__ import annotations

from functools import partial

import torch
import triton
from torch import Tensor

from sfda_kernels.backend import interpreted
from sfda_kernels.patches import triton_columns

TILE_ROWS = 8
"""Most rows of a tile: a thread's pixels. A cell is 8 rows high at output stride 8."""

TILE_COLUMNS = 512 if interpreted() else 128
"""Columns of a tile, one a thread; a program costs the interpreter the same at any size."""


def forward(logits: Tensor, grid: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy (B, P) fp32, rank (B, P) int64 and max_square () fp32 of logits (B, K, h, w) at `size` (H, W)."""
    batch, classes, low_height, low_width = logits.shape
    height, width = size
    identity = (low_height, low_width) == (height, width)
    band = triton.cdiv(height, grid)
    rows, cell = _tile_rows(low_height, height, identity)
    if identity:
        cells, parts = 1, triton.cdiv(band, rows)
    else:
        cells, parts = (band - 1) * low_height // height + 2, triton.cdiv(cell, rows)
    new = partial(torch.empty, device=logits.device, dtype=torch.float32)
    sums = new(batch, grid * cells * parts, 2, width)
    columns, warps = _columns(width)
    triton_columns.sums_kernel[(triton.cdiv(width, columns), grid * cells * parts, batch)](
        logits, *logits.stride(), sums, classes, low_height, low_width, height, width, grid, cells, parts,
        BR=rows, BX=columns, IDENTITY=identity, num_warps=warps,
    )  # fmt: skip
    entropy = new(batch, grid * grid)
    rank = torch.empty(batch, grid * grid, device=logits.device, dtype=torch.int64)
    squares = new(grid * grid)
    images = triton.next_power_of_2(batch)
    triton_columns.rank_kernel[(grid * grid,)](
        sums, entropy, rank, squares, batch, height, width, grid, cells * parts, -0.5 / (batch * height * width),
        BB=images, BX=max(16, min(128, 2048 // images)),
    )  # fmt: skip
    return entropy, rank, squares.sum()


def backward(
    logits: Tensor,
    grad_entropy: Tensor | None,
    grad_max_square: Tensor | None,
    grid: int,
    size: tuple[int, int],
) -> Tensor:
    """Gradient of the logits, in their type, for upstream gradients (B, P) and ()."""
    batch, classes, low_height, low_width = logits.shape
    height, width = size
    identity = (low_height, low_width) == (height, width)
    rows, cell = _tile_rows(low_height, height, identity)
    cells, parts = (1, triton.cdiv(height, rows)) if identity else (low_height + 1, triton.cdiv(cell, rows))
    gradient = torch.empty_like(logits)
    out = gradient
    if not identity:
        out = torch.empty(batch, classes, 2 * cells * parts, width, device=logits.device, dtype=torch.float32)
    columns, warps = _columns(width)
    upstream_strides = (0, 0) if grad_entropy is None else grad_entropy.stride()
    triton_columns.gradient_kernel[(triton.cdiv(width, columns), cells * parts, batch)](
        logits, *logits.stride(), grad_entropy, *upstream_strides, grad_max_square, out, *out.stride(),
        classes, low_height, low_width, height, width, grid, parts, -1.0 / (batch * height * width),
        BR=rows, BX=columns, IDENTITY=identity, num_warps=warps,
    )  # fmt: skip
    if not identity:
        columns, warps = _columns(low_width)
        triton_columns.gather_kernel[(batch * classes, low_height, triton.cdiv(low_width, columns))](
            out, *out.stride()[:3], gradient, *gradient.stride(), classes, low_height, low_width, width, parts,
            BX=columns, num_warps=warps,
        )  # fmt: skip
    return gradient


def _tile_rows(low: int, high: int, identity: bool) -> tuple[int, int]:
    """Rows of a tile, a power of two, and the most rows of a cell."""
    cell = triton.cdiv(high, low)
    return (TILE_ROWS if identity else min(TILE_ROWS, triton.next_power_of_2(cell))), cell


def _columns(width: int) -> tuple[int, int]:
    """Columns of a tile and its warps, a column a thread."""
    columns = min(TILE_COLUMNS, max(32, triton.next_power_of_2(width)))
    return columns, min(4, columns // 32)
