"""The Gram KL on a GPU: `cpu_gram_kl` on raw tokens of any layout, by Triton kernels and cuBLAS products.

Unlike in `cpu_gram_kl` the tokens are not scaled beforehand: a product of 16-bit features is exact in fp32, one of
rounded scaled features is not. The scales enter after the product, and their derivative is the diagonal of the
matrix W' with dX = W' X. `launch_table` chooses among the paths "tiles", "hybrid" and "blocks".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
from torch import Tensor

from sfda_kernels.attention import reference
from sfda_kernels.attention import triton_gram_rows as row_kernels
from sfda_kernels.attention import triton_gram_tiles as tile_kernels
from sfda_kernels.attention.launch_scales import device_of, factor_dtype, product, token_scales
from sfda_kernels.attention.launch_table import (
    BLOCK_LIMIT,
    INTERPRETED,
    ROW_BLOCK,
    ROW_CHUNK,
    ROW_WARPS,
    Path,
    Tile,
    choose_path,
    choose_tile,
    is_aligned,
)
from sfda_kernels.attention.shift import logit_bound, safe_shift
from sfda_kernels.backend import interpreted
from sfda_kernels.precision import full_precision, widen


def gram_kl(p: Tensor, q: Tensor, temperature: float, cosine: bool, path: Path | None = None) -> Tensor:
    """Mean over the rows of the KL of the attention maps of two sets of raw tokens, nats: (B, T, D) twice -> (B,).

    fp32, fp16 or bf16 tokens of any strides; fp32 result; gradients of p and q in their own dtype. `path` overrides
    the table; "tiles" needs a bound on the logits, so cosine similarity and a temperature of at least 1/`SAFE_BOUND`.
    """
    known = safe_shift(logit_bound(temperature, cosine)) is not None
    if path is None:
        path = choose_path(p.shape, {p.dtype, q.dtype}, is_aligned(p) and is_aligned(q), known, _major(p))
    if path == "tiles" and not known:
        raise ValueError("path 'tiles' needs cosine similarity and a temperature of at least 1/40")
    return _forward_op(p, q, temperature, cosine, path)[0]


def forward(
    p: Tensor, q: Tensor, temperature: float, cosine: bool, path: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The divergences (B,); for the backward pass rows (4, B, T), scales and healthy (2, B, T) and, on the hybrid
    path, the raw maps of p and q (B, T, T), elsewhere nothing (0,)."""
    batch, count, _ = p.shape
    rows = torch.empty(4, batch, count, dtype=torch.float32, device=p.device)
    map_p, map_q = rows.new_empty(0), rows.new_empty(0)
    with device_of(p):
        scales, healthy = token_scales(p, q, temperature, cosine)
        if path == "tiles":
            _tiles_forward(p, q, scales, rows, 1 / temperature)
        elif path == "hybrid":
            map_p, map_q = product(p, p.mT), product(q, q.mT)
            _rows_forward(map_p, map_q, scales, rows, 0, safe_shift(logit_bound(temperature, cosine)))
        else:
            for top, bottom in _blocks(batch, count):
                block_p, block_q = (product(x[:, top:bottom], x.mT) for x in (p, q))
                _rows_forward(block_p, block_q, scales, rows, top, safe_shift(logit_bound(temperature, cosine)))
    return rows[3].mean(1), rows, scales, healthy, map_p, map_q


def backward(
    grad: Tensor,
    p: Tensor,
    q: Tensor,
    rows: Tensor,
    scales: Tensor,
    healthy: Tensor,
    map_p: Tensor,
    map_q: Tensor,
    temperature: float,
    path: str,
    wrt_target: bool,
) -> Tensor:
    """The gradient of `p`, or of `q` if `wrt_target`, (B, T, D); the target's never goes by tiles."""
    batch, count, _ = p.shape
    x = q if wrt_target else p
    grad = grad.contiguous()
    saved = (scales, healthy, rows, grad, temperature, wrt_target)
    with device_of(p):
        if path == "tiles" and not wrt_target:
            w = _tiles_backward(p, q, scales, healthy, rows, grad, temperature)
            return product(w, x).to(x.dtype)
        if path == "hybrid":
            return product(_rows_backward(map_p, map_q, 0, factor_dtype(x), *saved), x).to(x.dtype)
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for top, bottom in _blocks(batch, count):
            block_p, block_q = (product(y[:, top:bottom], y.mT) for y in (p, q))
            w = _rows_backward(block_p, block_q, top, factor_dtype(x), *saved)
            out[:, top:bottom] = product(w, x)
        return out


def _rows_forward(map_p: Tensor, map_q: Tensor, scales: Tensor, rows: Tensor, top: int, shift: float | None) -> None:
    batch, height, count = map_p.shape
    row_kernels.kl_forward_rows[(triton.cdiv(height, ROW_BLOCK), batch)](
        map_p, map_q, scales, rows, count, top, height, shift or 0.0,
        BR=ROW_BLOCK, BC=ROW_CHUNK, KNOWN=shift is not None, num_warps=ROW_WARPS,
    )  # fmt: skip


def _rows_backward(
    map_p: Tensor,
    map_q: Tensor,
    top: int,
    dtype: torch.dtype,
    scales: Tensor,
    healthy: Tensor,
    rows: Tensor,
    grad: Tensor,
    temperature: float,
    wrt_target: bool,
) -> Tensor:
    """Rows of W' (B, height, T) from the same rows of the raw maps."""
    batch, height, count = map_p.shape
    w = torch.empty(map_p.shape, dtype=dtype, device=map_p.device)
    row_kernels.kl_backward_rows[(triton.cdiv(height, ROW_BLOCK), batch)](
        map_p, map_q, scales, healthy, rows, grad, w, count, top, height, temperature,
        BR=ROW_BLOCK, BC=ROW_CHUNK, TARGET=wrt_target, num_warps=ROW_WARPS,
    )  # fmt: skip
    return w


def _tiles_forward(p: Tensor, q: Tensor, scales: Tensor, rows: Tensor, shift: float) -> None:
    batch, count, depth = p.shape
    tile, blocks, grid = _tiling(p)
    parts = torch.empty(batch, blocks, 3, count, dtype=torch.float32, device=p.device)
    tile_kernels.kl_forward_tiles[grid](
        p, q, scales, parts, count, depth, *p.stride(), *q.stride(), shift,
        BT=tile.size, BD=tile.depth, UPCAST=interpreted(), num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    tile_kernels.kl_merge_tiles[(triton.cdiv(count, 128), batch)](parts, rows, count, blocks, shift, BT=128)


def _tiles_backward(
    p: Tensor, q: Tensor, scales: Tensor, healthy: Tensor, rows: Tensor, grad: Tensor, temperature: float
) -> Tensor:
    """W' (B, T, T)."""
    batch, count, depth = p.shape
    tile, blocks, grid = _tiling(p)
    w = torch.empty(batch, count, count, dtype=factor_dtype(p), device=p.device)
    parts = torch.empty(batch, blocks, count, dtype=torch.float32, device=p.device)
    tile_kernels.kl_backward_tiles[grid](
        p, q, scales, rows, grad, w, parts, count, depth, *p.stride(), *q.stride(), 1 / temperature,
        BT=tile.size, BD=tile.depth, SPLIT=tile.split, UPCAST=interpreted(),
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    tile_kernels.kl_diagonal[(triton.cdiv(count, 128), batch)](
        parts, scales, healthy, w, count, blocks, temperature, BT=128
    )
    return w


def _tiling(x: Tensor) -> tuple[Tile, int, tuple[int, int]]:
    """Tile, blocks of tokens a side, and grid: one program for each tile on or above the diagonal."""
    batch, count, _ = x.shape
    tile = INTERPRETED if interpreted() else choose_tile(count, _major(x))
    blocks = triton.cdiv(count, tile.size)
    return tile, blocks, (blocks * (blocks + 1) // 2, batch)


def _blocks(batch: int, count: int) -> Iterator[tuple[int, int]]:
    """Groups of rows whose map, over the whole batch, has at most `BLOCK_LIMIT` elements."""
    height = max(1, BLOCK_LIMIT // (batch * count))
    for top in range(0, count, height):
        yield top, min(top + height, count)


def _major(x: Tensor) -> int:
    return torch.cuda.get_device_capability(x.device)[0] if x.is_cuda else 9


_forward_op = torch.library.custom_op("sfda_kernels::gram_kl_triton", forward, mutates_args=())
_backward_op = torch.library.custom_op("sfda_kernels::gram_kl_triton_backward", backward, mutates_args=())


@_forward_op.register_fake
def _(p: Tensor, q: Tensor, temperature: float, cosine: bool, path: str) -> tuple[Tensor, ...]:
    batch, count, _ = p.shape
    rows = torch.empty(4, batch, count, dtype=torch.float32, device=p.device)
    maps = [rows.new_empty((batch, count, count) if path == "hybrid" else 0) for _ in range(2)]
    healthy = rows.new_empty(2, batch, count, dtype=torch.int8)
    return rows.new_empty(batch), rows, rows.new_empty(2, batch, count), healthy, *maps


@_backward_op.register_fake
def _(grad: Tensor, p: Tensor, q: Tensor, *rest: Any) -> Tensor:
    x = q if rest[-1] else p
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    p, q, ctx.temperature, ctx.cosine, ctx.path = inputs
    ctx.save_for_backward(p, q, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zeros for the outputs that only the backward pass reads


def _differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    p, q, *saved = ctx.saved_tensors
    if torch.is_grad_enabled():  # a second derivative is wanted: the reference has one
        u, v = (reference.scale_tokens(widen(x), ctx.temperature, ctx.cosine) for x in (p, q))
        return (
            *reference.gradients(reference.gram_kl(u, v), (p, q), grad),
            None,
            None,
            None,
        )
    need_p, need_q, *_ = ctx.needs_input_grad
    settings = (ctx.temperature, ctx.path)
    with full_precision(p):
        dp = _backward_op(grad, p, q, *saved, *settings, False) if need_p else None
        dq = _backward_op(grad, p, q, *saved, *settings, True) if need_q else None
    return dp, dq, None, None, None


_forward_op.register_autograd(_differentiate, setup_context=_setup_context)
