"""What the launches of the attention operators share: token scales, and products of 16-bit factors in fp32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from sfda_kernels.attention import reference, triton_gram_rows


def token_scales(p: Tensor, q: Tensor, temperature: float, cosine: bool) -> tuple[Tensor, Tensor]:
    """Factors (2, B, T) of the tokens of p, then q, (B, T, D), with which products of tokens become logits.

    Second result, int8 of the same shape: whether the token's norm is differentiated, so is over its floor.
    """
    batch, count, depth = p.shape
    shape = (2, batch, count)
    scales, healthy = (torch.empty(shape, dtype=dtype, device=p.device) for dtype in (torch.float32, torch.int8))
    if not cosine:
        scales.fill_(1)
        healthy.fill_(0)
    else:
        squares = torch.empty_like(scales)
        for x, out in zip((p, q), squares, strict=True):
            grid = (triton.cdiv(count, 32), batch)
            triton_gram_rows.square_norms[grid](x, out, count, depth, *x.stride(), BT=32, BD=64)
        floors = (reference.RELATIVE_FLOOR, reference.ABSOLUTE_FLOOR)
        triton_gram_rows.token_scales[(batch, 2)](squares, scales, healthy, count, temperature**0.5, *floors, BT=1024)
    return scales, healthy


def product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right in fp32, (B, m, k) by (B, k, n); 16-bit factors go to the tensor cores, which multiply exactly."""
    right = right.to(left.dtype)
    if left.is_cuda and left.dtype != torch.float32:
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left.float(), right.float())


def factor_dtype(x: Tensor) -> torch.dtype:
    """Type of a map that multiplies tokens x: bfloat16 for float16 too, whose range attention exceeds downwards."""
    return torch.float32 if x.dtype == torch.float32 else torch.bfloat16


def device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device: the context that makes it x's."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
