"""Row-wise KL of two Gram softmaxes with a backward pass by formula, in plain torch: the path of the CPU.

With logits a = u u^T and b = v v^T, p and q their row softmaxes, lse their row log-sum-exps, and g the upstream
gradient over T:

    m_i  = sum_j p_ij (a_ij - b_ij),   KL_i = m_i - lse^a_i + lse^b_i
    D_ij = g dKL_i/da_ij = g p_ij (a_ij - b_ij - m_i)
    du   = (D + D^T) u                    a is symmetric: a_ij appears in rows i and j
    dv   = g (q - p + q^T - p^T) v

The maps exist only as strips: some rows by the columns from the diagonal on, the other half follows by symmetry.
Shapes: B samples, T tokens, D features; u and v are (B, T, D), scaled by `cpu_scaled_tokens`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sfda_kernels.attention import reference
from sfda_kernels.attention.cpu_strips import gram_strip, groups, strips
from sfda_kernels.attention.shift import safe_shift
from sfda_kernels.precision import full_precision


def gram_kl(p: Tensor, q: Tensor, bound: float | None) -> Tensor:
    """Mean over the rows of KL(softmax(p p^T) || softmax(q q^T)) in nats: (B, T, D) twice -> (B,).

    `bound` is a number that no |logit| exceeds, 1/temperature for cosine similarity, or None: without one, or with
    one over `SAFE_BOUND`, the maximum of each row is taken. Equals `reference.gram_kl` with its gradients.
    """
    return _forward_op(p, q, safe_shift(bound))[0]


def forward(p: Tensor, q: Tensor, shift: float | None) -> tuple[Tensor, Tensor]:
    """The divergences (B,) and, for the backward pass, lse^a, lse^b, m and KL of each row (4, B, T)."""
    batch, count = p.shape[:2]
    rows = p.new_zeros(4, batch, count)
    for samples in groups(batch, count):
        u, v, sums = p[samples], q[samples], rows[:, samples]
        for top, bottom in strips(count):
            if shift is None:
                a, b = u[:, top:bottom] @ u.mT, v[:, top:bottom] @ v.mT
                _row_statistics(a, b, sums[..., top:bottom])
            else:
                a, b = gram_strip(u, top, bottom), gram_strip(v, top, bottom)
                _add_sums(a, b, shift, sums[:3, :, top:], bottom - top)
    if shift is not None:
        rows[2] /= rows[0]
        rows[:2].log_()
        rows[3] = rows[2] - rows[0] + rows[1]
        rows[:2] += shift
    return rows[3].mean(1), rows


def _row_statistics(a: Tensor, b: Tensor, out: Tensor) -> None:
    """lse^a, lse^b, m and KL of complete rows (b, t, T) into `out` (4, b, t); overwrites a and b."""
    lse_p, lse_q = torch.logsumexp(a, 2), torch.logsumexp(b, 2)
    b.neg_().add_(a)
    a.sub_(lse_p.unsqueeze(2)).exp_()
    mean = a.mul_(b).sum(2)
    out.copy_(torch.stack([lse_p, lse_q, mean, mean - lse_p + lse_q]))


def _add_sums(a: Tensor, b: Tensor, shift: float, out: Tensor, height: int) -> None:
    """Adds sum e^(a - shift), sum e^(b - shift) and sum e^(a - shift) (a - b) to `out`; overwrites a and b.

    The strips (b, t, n) hold the rows of the first `height` of the n tokens of `out` (3, b, n). What lies right of
    the square on the diagonal is, transposed, also a part of the rows below.
    """
    difference = a - b
    mass_p, mass_q = a.sub_(shift).exp_(), b.sub_(shift).exp_()
    difference.mul_(mass_p)
    for total, terms in zip(out, (mass_p, mass_q, difference), strict=True):
        total[:, :height] += terms.sum(2)
        total[:, height:] += terms[..., height:].sum(1)


def backward(grad: Tensor, p: Tensor, q: Tensor, rows: Tensor, shift: float | None, wrt_target: bool) -> Tensor:
    """The gradient of `p`, or of `q` if `wrt_target`, (B, T, D)."""
    batch, count = p.shape[:2]
    tokens = q if wrt_target else p
    out = torch.zeros_like(tokens)
    scale = (grad / count)[:, None, None]
    weights = _target_weights if wrt_target else _weights
    for samples in groups(batch, count):
        u, v, x, dx = p[samples], q[samples], tokens[samples], out[samples]
        for top, bottom in strips(count):
            a, b = gram_strip(u, top, bottom), gram_strip(v, top, bottom)
            w = weights(a, b, rows[:, samples], top, bottom, shift).mul_(scale[samples])
            dx[:, top:bottom].baddbmm_(w, x[:, top:])
            dx[:, bottom:].baddbmm_(w[..., bottom - top :].mT, x[:, top:bottom])
    return out


def _weights(a: Tensor, b: Tensor, rows: Tensor, top: int, bottom: int, shift: float | None) -> Tensor:
    """D + D^T over a strip, for g = 1; overwrites a and b.

    With a shift one exponential serves both: e^(a - shift) (alpha_i (a - b - m_i) + alpha_j (a - b - m_j)) where
    alpha = e^(shift - lse^a).
    """
    lse, mean = rows[0], rows[2]
    difference = b.neg_().add_(a)
    below = difference - mean[:, None, top:]
    beside = difference.sub_(mean[:, top:bottom, None])
    if shift is None:
        below.mul_((a - lse[:, None, top:]).exp_())
        return beside.mul_(a.sub_(lse[:, top:bottom, None]).exp_()).add_(below)
    alpha = (shift - lse).exp()
    beside.mul_(alpha[:, top:bottom, None]).addcmul_(below, alpha[:, None, top:])
    return beside.mul_(a.sub_(shift).exp_())


def _target_weights(a: Tensor, b: Tensor, rows: Tensor, top: int, bottom: int, shift: float | None) -> Tensor:
    """q - p + q^T - p^T over a strip; overwrites b."""
    total = (b - rows[1][:, None, top:]).exp_()
    total.add_(b.sub_(rows[1][:, top:bottom, None]).exp_())
    total.sub_((a - rows[0][:, None, top:]).exp_())
    return total.sub_(a.sub_(rows[0][:, top:bottom, None]).exp_())


_forward_op = torch.library.custom_op("sfda_kernels::gram_kl_cpu", forward, mutates_args=())
_backward_op = torch.library.custom_op("sfda_kernels::gram_kl_cpu_backward", backward, mutates_args=())


@_forward_op.register_fake
def _(p: Tensor, q: Tensor, shift: float | None) -> tuple[Tensor, Tensor]:
    return p.new_empty(p.shape[0]), p.new_empty(4, *p.shape[:2])


@_backward_op.register_fake
def _(grad: Tensor, p: Tensor, q: Tensor, rows: Tensor, shift: float | None, wrt_target: bool) -> Tensor:
    return torch.empty_like(q if wrt_target else p)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    p, q, ctx.shift = inputs
    ctx.save_for_backward(p, q, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros for the outputs that only the backward pass reads


def _differentiate(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 3
    p, q, rows = ctx.saved_tensors
    if torch.is_grad_enabled():  # a second derivative is wanted: the reference has one
        return *reference.gradients(reference.gram_kl(p, q), (p, q), grad), None
    need_p, need_q, _ = ctx.needs_input_grad
    with full_precision(p):
        dp = _backward_op(grad, p, q, rows, ctx.shift, False) if need_p else None
        dq = _backward_op(grad, p, q, rows, ctx.shift, True) if need_q else None
    return dp, dq, None


_forward_op.register_autograd(_differentiate, setup_context=_setup_context)
