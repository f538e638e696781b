"""L1 distance of two attended token sets with a backward pass by formula, in plain torch.

With tokens u, values x, S the row softmax of u u^T and A = S x, for teacher t and student s:

    L = sum |A^t - A^s|,   sign = sign(A^t - A^s),   delta_i = sum_d sign_id A_id,   so L = sum_i delta^t_i - delta^s_i
    dx   = S^T G                            G = dL/dA = g sign for the teacher, -g sign for the student
    D_ij = S_ij (G_i . x_j - delta_i)       delta with the sign and scale of G
    du   = (D + D^T) u

A is not kept: the backward pass needs the sign (int8) and four numbers a row. It takes three matrix products where
autograd takes four, as u u^T is symmetric. The maps exist only as strips, see `gram_kl`.
Shapes: B samples, T tokens, D features; u are (B, T, D) scaled by `scaled_tokens`, x (B, T, D) are not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sfda_kernels import reference
from sfda_kernels.gram_kl import gram_strip, reference_gradients, strips


def attended_l1(teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor]) -> Tensor:
    """Sum over tokens and features of |S^t x^t - S^s x^s|, each side (tokens, values), (B, T, D) all: (B,).

    Equals the L1 distance of `reference.attend` of the two sides, with its gradients.
    """
    return _forward_op(*teacher, *student)[0]


def forward(u_t: Tensor, x_t: Tensor, u_s: Tensor, x_s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The distances (B,); for the backward pass the sign (B, T, D) and lse, delta of t, then s (4, B, T)."""
    batch, count = u_t.shape[:2]
    rows = u_t.new_empty(4, batch, count)
    sign = torch.empty_like(u_t, dtype=torch.int8)
    for samples, top, bottom in strips(batch, count):
        piece = (samples, slice(top, bottom))
        attended_t, rows[0][piece] = _attend(u_t[samples], x_t[samples], top, bottom)
        attended_s, rows[2][piece] = _attend(u_s[samples], x_s[samples], top, bottom)
        direction = (attended_t - attended_s).sign_()
        sign[piece] = direction
        rows[1][piece] = attended_t.mul_(direction).sum(2)
        rows[3][piece] = attended_s.mul_(direction).sum(2)
    return (rows[1] - rows[3]).sum(1), sign, rows


def _attend(tokens: Tensor, values: Tensor, top: int, bottom: int) -> tuple[Tensor, Tensor]:
    """Rows [top, bottom) of S x (b, t, D), and their lse (b, t)."""
    logits = tokens[:, top:bottom] @ tokens.mT
    largest = logits.amax(2, keepdim=True)
    mass = logits.sub_(largest).exp_()
    total = mass.sum(2, keepdim=True)
    return (mass @ values).div_(total), total.log_().add_(largest).squeeze(2)


def backward(scale: Tensor, u: Tensor, x: Tensor, sign: Tensor, lse: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of one side's tokens u and values x (B, T, D), where dL/dA = scale (B,) * sign."""
    batch, count = u.shape[:2]
    du, dx = torch.zeros_like(u), torch.zeros_like(x)
    for samples, top, bottom in strips(batch, count):
        here, after, height = slice(top, bottom), slice(top, count), bottom - top
        g = (sign[samples, after].to(u.dtype)).mul_(scale[samples, None, None])
        d = delta[samples] * scale[samples, None]
        beside, below = _map_strip(u[samples], lse[samples], top, bottom)
        dx[samples, after].baddbmm_(beside.mT, g[:, :height])
        dx[samples, here].baddbmm_(below[..., height:], g[:, height:])
        beside.mul_((g[:, :height] @ x[samples, after].mT).sub_(d[:, here, None]))
        below.mul_((x[samples, here] @ g.mT).sub_(d[:, None, after]))
        w = beside.add_(below)
        du[samples, here].baddbmm_(w, u[samples, after])
        du[samples, bottom:].baddbmm_(w[..., height:].mT, u[samples, here])
    return du, dx


def _map_strip(u: Tensor, lse: Tensor, top: int, bottom: int) -> tuple[Tensor, Tensor]:
    """S_ij and S_ji for rows i in [top, bottom) and columns j from `top` on: (b, t, T - top) twice."""
    logits = gram_strip(u, top, bottom)
    below = (logits - lse[:, None, top:]).exp_()
    return logits.sub_(lse[:, top:bottom, None]).exp_(), below


_forward_op = torch.library.custom_op("sfda_kernels::attended_l1", forward, mutates_args=())
_backward_op = torch.library.custom_op("sfda_kernels::attended_l1_backward", backward, mutates_args=())


@_forward_op.register_fake
def _(u_t: Tensor, x_t: Tensor, u_s: Tensor, x_s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch, count, _ = u_t.shape
    return u_t.new_empty(batch), torch.empty_like(u_t, dtype=torch.int8), u_t.new_empty(4, batch, count)


@_backward_op.register_fake
def _(scale: Tensor, u: Tensor, x: Tensor, sign: Tensor, lse: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(u), torch.empty_like(x)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zeros for the outputs that only the backward pass reads


def _differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 4
    u_t, x_t, u_s, x_s, sign, (lse_t, delta_t, lse_s, delta_s) = ctx.saved_tensors
    if torch.is_grad_enabled():  # a second derivative is wanted: the reference has one
        distance = (reference.attend(u_t, x_t) - reference.attend(u_s, x_s)).abs().sum((1, 2))
        return (*reference_gradients(distance, (u_t, x_t, u_s, x_s), grad),)
    need_teacher, need_student = any(ctx.needs_input_grad[:2]), any(ctx.needs_input_grad[2:])
    with reference.full_precision(u_t):
        teacher = _backward_op(grad, u_t, x_t, sign, lse_t, delta_t) if need_teacher else (None, None)
        student = _backward_op(-grad, u_s, x_s, sign, lse_s, delta_s) if need_student else (None, None)
    return *teacher, *student


_forward_op.register_autograd(_differentiate, setup_context=_setup_context)
