"""L1 distance of two attended token sets with a backward pass by formula, in plain torch.

With tokens u, values x, S the row softmax of u u^T and A = S x, for teacher t and student s:

    L = sum |A^t - A^s|,   sign = sign(A^t - A^s),   delta_i = sum_d sign_id A_id,   so L = sum_i delta^t_i - delta^s_i
    dx   = S^T G                            G = dL/dA = g sign for the teacher, -g sign for the student
    D_ij = S_ij (G_i . x_j - delta_i)       delta with the sign and scale of G
    du   = (D + D^T) u

A is not kept: the backward pass needs the sign (int8) and four numbers a row. It takes three matrix products where
autograd takes four, as u u^T is symmetric. The maps exist only as strips, see `cpu_strips`.
Shapes: B samples, T tokens, D features; u are (B, T, D) scaled by `cpu_scaled_tokens`, x (B, T, D) are not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sfda_kernels.attention import reference
from sfda_kernels.attention.cpu_strips import gram_strip, groups, strips
from sfda_kernels.attention.shift import safe_shift
from sfda_kernels.precision import full_precision


def attended_l1(teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor], bound: float | None) -> Tensor:
    """Sum over tokens and features of |S^t x^t - S^s x^s|, each side (tokens, values), (B, T, D) all: (B,).

    `bound` is as in `cpu_gram_kl`. Equals `reference.attended_l1` with its gradients.
    """
    return _forward_op(*teacher, *student, safe_shift(bound))[0]


def forward(u_t: Tensor, x_t: Tensor, u_s: Tensor, x_s: Tensor, shift: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """The distances (B,); for the backward pass the sign (B, T, D) and lse, delta of t, then s (4, B, T)."""
    batch, count = u_t.shape[:2]
    rows = u_t.new_empty(4, batch, count)
    sign = torch.empty_like(u_t, dtype=torch.int8)
    for samples in groups(batch, count):
        attended_t, rows[0, samples] = _attend(u_t[samples], x_t[samples], shift)
        attended_s, rows[2, samples] = _attend(u_s[samples], x_s[samples], shift)
        direction = (attended_t - attended_s).sign_()
        sign[samples] = direction
        rows[1, samples] = attended_t.mul_(direction).sum(2)
        rows[3, samples] = attended_s.mul_(direction).sum(2)
    return (rows[1] - rows[3]).sum(1), sign, rows


def _attend(u: Tensor, x: Tensor, shift: float | None) -> tuple[Tensor, Tensor]:
    """S x (b, T, D) and lse (b, T). With a shift e^(a - shift) is symmetric, and half of it is enough."""
    count = u.shape[1]
    attended = torch.zeros_like(x)
    mass, largest = u.new_zeros(*u.shape[:2], 1), u.new_zeros(*u.shape[:2], 1)
    for top, bottom in strips(count):
        here = slice(top, bottom)
        if shift is None:
            e = u[:, here] @ u.mT
            largest[:, here] = e.amax(2, keepdim=True)
            e.sub_(largest[:, here]).exp_()
            attended[:, here].baddbmm_(e, x)
            mass[:, here] = e.sum(2, keepdim=True)
            continue
        e = gram_strip(u, top, bottom).sub_(shift).exp_()
        below = e[..., bottom - top :]
        attended[:, here].baddbmm_(e, x[:, top:])
        attended[:, bottom:].baddbmm_(below.mT, x[:, here])
        mass[:, here] += e.sum(2, keepdim=True)
        mass[:, bottom:] += below.sum(1).unsqueeze(2)
    attended.div_(mass)
    return attended, mass.log_().add_(largest if shift is None else shift).squeeze(2)


def backward(
    scale: Tensor, u: Tensor, x: Tensor, sign: Tensor, lse: Tensor, delta: Tensor, shift: float | None
) -> tuple[Tensor, Tensor]:
    """Gradients of one side's tokens u and values x (B, T, D), where dL/dA = scale (B,) * sign."""
    batch, count = u.shape[:2]
    du, dx = torch.zeros_like(u), torch.zeros_like(x)
    for samples in groups(batch, count):
        # With a shift S_ij = e^(a - shift) alpha_i: the map is symmetric and alpha goes with G and delta.
        alpha = 1.0 if shift is None else (shift - lse[samples]).exp_()
        factor = scale[samples, None] * alpha
        g, d = sign[samples].to(u.dtype).mul_(factor[..., None]), delta[samples] * factor
        side = (u[samples], x[samples], g, d, lse[samples], shift)
        for top, bottom in strips(count):
            _add_gradients(du[samples], dx[samples], *side, top, bottom)
    return du, dx


def _add_gradients(
    du: Tensor,
    dx: Tensor,
    u: Tensor,
    x: Tensor,
    g: Tensor,
    d: Tensor,
    lse: Tensor,
    shift: float | None,
    top: int,
    bottom: int,
) -> None:
    """Adds to du and dx (b, T, D) what rows [top, bottom) of the map and, by symmetry, the same columns give."""
    here, height = slice(top, bottom), bottom - top
    beside = gram_strip(u, top, bottom)
    if shift is None:
        below = (beside - lse[:, None, top:]).exp_()
        beside.sub_(lse[:, here, None]).exp_()
    else:
        below = beside.sub_(shift).exp_()
    dx[:, top:].baddbmm_(beside.mT, g[:, here])
    dx[:, here].baddbmm_(below[..., height:], g[:, bottom:])
    v = (g[:, here] @ x[:, top:].mT).sub_(d[:, here, None])
    v_below = (x[:, here] @ g[:, top:].mT).sub_(d[:, None, top:])
    w = v.mul_(beside).add_(v_below.mul_(below)) if shift is None else v.add_(v_below).mul_(beside)
    du[:, here].baddbmm_(w, u[:, top:])
    du[:, bottom:].baddbmm_(w[..., height:].mT, u[:, here])


_forward_op = torch.library.custom_op("sfda_kernels::attended_l1_cpu", forward, mutates_args=())
_backward_op = torch.library.custom_op("sfda_kernels::attended_l1_cpu_backward", backward, mutates_args=())


@_forward_op.register_fake
def _(u_t: Tensor, x_t: Tensor, u_s: Tensor, x_s: Tensor, shift: float | None) -> tuple[Tensor, Tensor, Tensor]:
    batch, count, _ = u_t.shape
    return u_t.new_empty(batch), torch.empty_like(u_t, dtype=torch.int8), u_t.new_empty(4, batch, count)


@_backward_op.register_fake
def _(scale: Tensor, u: Tensor, x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(u), torch.empty_like(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *sides, ctx.shift = inputs
    ctx.save_for_backward(*sides, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zeros for the outputs that only the backward pass reads


def _differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    u_t, x_t, u_s, x_s, sign, (lse_t, delta_t, lse_s, delta_s) = ctx.saved_tensors
    if torch.is_grad_enabled():  # a second derivative is wanted: the reference has one
        distance = reference.attended_l1((u_t, x_t), (u_s, x_s))
        return *reference.gradients(distance, (u_t, x_t, u_s, x_s), grad), None
    need_teacher, need_student = any(ctx.needs_input_grad[:2]), any(ctx.needs_input_grad[2:4])
    with full_precision(u_t):
        teacher = _backward_op(grad, u_t, x_t, sign, lse_t, delta_t, ctx.shift) if need_teacher else (None, None)
        student = _backward_op(-grad, u_s, x_s, sign, lse_s, delta_s, ctx.shift) if need_student else (None, None)
    return *teacher, *student, None


_forward_op.register_autograd(_differentiate, setup_context=_setup_context)
