"""The attended L1 on a GPU: `cpu_attended_l1` on raw tokens of any layout, by cuBLAS products and Triton kernels.

Four products forward and three for each side that needs a gradient. As in `launch_gram_kl` the scales of the tokens
enter after the products. Kept for the backward pass: the sign (int8), four numbers a row and, for each side that
needs a gradient, its attention map once, in 16 bits for 16-bit features.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from sfda_kernels.attention import reference
from sfda_kernels.attention import triton_attended_l1 as kernels
from sfda_kernels.attention.launch_scales import device_of, factor_dtype, product, token_scales
from sfda_kernels.attention.launch_table import MAP_LIMIT, ROW_BLOCK, ROW_CHUNK, ROW_WARPS, TURN_BLOCK, TURN_CHUNK
from sfda_kernels.precision import full_precision, widen


def attended_l1(teacher: Tensor, student: Tensor, temperature: float, cosine: bool) -> Tensor:
    """Sum over tokens and features of |S^t x^t - S^s x^s|, raw tokens (B, T, D) of fp32, fp16 or bf16: fp32 (B,).

    Samples go in groups whose maps together have at most `launch_table.MAP_LIMIT` elements.
    """
    keep = [torch.is_grad_enabled() and x.requires_grad for x in (teacher, student)]
    group = max(1, MAP_LIMIT // (2 * teacher.shape[1] ** 2))
    pairs = zip(teacher.split(group), student.split(group), strict=True)
    return torch.cat([_forward_op(t, s, temperature, cosine, *keep)[0] for t, s in pairs])


def forward(
    teacher: Tensor, student: Tensor, temperature: float, cosine: bool, keep_teacher: bool, keep_student: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The distances (B,); for the backward pass the sign (B, T, D), lse and delta of t, then s (4, B, T), scales and
    healthy (2, B, T), and the attention of each side to keep (B, T, T), of another nothing (0,)."""
    batch, count, depth = teacher.shape
    rows = torch.empty(4, batch, count, dtype=torch.float32, device=teacher.device)
    sign = torch.empty(batch, count, depth, dtype=torch.int8, device=teacher.device)
    with device_of(teacher):
        scales, healthy = token_scales(teacher, student, temperature, cosine)
        attended_t, map_t = _attend(teacher, scales[0], rows[0])
        map_t = map_t if keep_teacher else map_t.new_empty(0)
        attended_s, map_s = _attend(student, scales[1], rows[2])
        map_s = map_s if keep_student else map_s.new_empty(0)
        kernels.sign_rows[(triton.cdiv(count, ROW_BLOCK), batch)](
            attended_t, attended_s, sign, rows[1], rows[3], count, depth,
            BR=ROW_BLOCK, BC=ROW_CHUNK, num_warps=ROW_WARPS,
        )  # fmt: skip
    return (rows[1] - rows[3]).sum(1), sign, rows, scales, healthy, map_t, map_s


def _attend(x: Tensor, scales: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """S x in fp32 (B, T, D) and the attention map S; writes `lse` (B, T)."""
    batch, count, _ = x.shape
    gram = product(x, x.mT)
    attention = torch.empty(gram.shape, dtype=factor_dtype(x), device=x.device)
    kernels.attention_rows[(triton.cdiv(count, ROW_BLOCK), batch)](
        gram, scales, attention, lse, count, BR=ROW_BLOCK, BC=ROW_CHUNK, num_warps=ROW_WARPS
    )
    return product(attention, x), attention


def backward(
    scale: Tensor,
    x: Tensor,
    sign: Tensor,
    attention: Tensor,
    lse: Tensor,
    delta: Tensor,
    scales: Tensor,
    healthy: Tensor,
    temperature: float,
) -> Tensor:
    """Gradient of one side's tokens x (B, T, D), where dL/dA = scale (B,) * sign."""
    batch, count, _ = x.shape
    scale = scale.contiguous()
    with device_of(x):
        direction = sign.to(attention.dtype)
        v = product(direction, x.mT)
        w = torch.empty_like(attention)
        kernels.attention_backward_rows[(triton.cdiv(count, TURN_BLOCK), batch)](
            attention, v, lse, delta, scales, healthy, scale, w, count, temperature,
            BR=TURN_BLOCK, BC=TURN_CHUNK, num_warps=ROW_WARPS,
        )  # fmt: skip
        del v
        through_values = product(attention.mT, direction).mul_(scale[:, None, None])
        return through_values.add_(product(w, x)).to(x.dtype)


_forward_op = torch.library.custom_op("sfda_kernels::attended_l1_triton", forward, mutates_args=())
_backward_op = torch.library.custom_op("sfda_kernels::attended_l1_triton_backward", backward, mutates_args=())


@_forward_op.register_fake
def _(teacher: Tensor, student: Tensor, temperature: float, cosine: bool, *keep: bool) -> tuple[Tensor, ...]:
    batch, count, depth = teacher.shape
    rows = torch.empty(4, batch, count, dtype=torch.float32, device=teacher.device)
    sign = rows.new_empty(batch, count, depth, dtype=torch.int8)
    healthy = rows.new_empty(2, batch, count, dtype=torch.int8)
    maps = [
        rows.new_empty((batch, count, count) if kept else 0, dtype=factor_dtype(x))
        for kept, x in zip(keep, (teacher, student), strict=True)
    ]
    return rows.new_empty(batch), sign, rows, rows.new_empty(2, batch, count), healthy, *maps


@_backward_op.register_fake
def _(scale: Tensor, x: Tensor, *_: Any) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    teacher, student, ctx.temperature, ctx.cosine, *_ = inputs
    ctx.save_for_backward(teacher, student, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zeros for the outputs that only the backward pass reads


def _differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    teacher, student, sign, rows, scales, healthy, map_t, map_s = ctx.saved_tensors
    if torch.is_grad_enabled():  # a second derivative is wanted: the reference has one
        t, s = (
            (reference.scale_tokens(values, ctx.temperature, ctx.cosine), values)
            for values in (widen(teacher), widen(student))
        )
        return *reference.gradients(reference.attended_l1(t, s), (teacher, student), grad), None, None, None, None
    need_t, need_s, *_rest = ctx.needs_input_grad
    side_t = (sign, map_t, rows[0], rows[1], scales[0], healthy[0], ctx.temperature)
    side_s = (sign, map_s, rows[2], rows[3], scales[1], healthy[1], ctx.temperature)
    with full_precision(teacher):
        dt = _backward_op(grad, teacher, *side_t) if need_t else None
        ds = _backward_op(-grad, student, *side_s) if need_s else None
    return dt, ds, None, None, None, None


_forward_op.register_autograd(_differentiate, setup_context=_setup_context)
