"""Tokens scaled to unit norm with a backward pass by formula, in plain torch: `reference.scale_tokens` for the CPU.

With s_i = 1 / (max(|x_i|, floor) sqrt(temperature)) and u_i = s_i x_i:

    dx_i = s_i (du_i - temperature (u_i . du_i) u_i)     where |x_i| is over the floor
    dx_i = s_i du_i                                      elsewhere: the floor is a constant

Two passes over the tokens, in their own layout, where autograd through the reference takes eight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sfda_kernels.attention import reference


def scale_tokens(tokens: Tensor, temperature: float, cosine: bool) -> Tensor:
    """Rows whose Gram matrix is the logits of the attention map, (B, T, D) -> (B, T, D): `reference.scale_tokens`."""
    return _forward_op(tokens, temperature)[0] if cosine else tokens


def forward(tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """The scaled tokens; for the backward pass s (B, T, 1), and temperature where the norm varies, else 0 (B, T, 1)."""
    squares = tokens.square().sum(2, keepdim=True)
    norm = squares.sqrt()
    floor = (reference.RELATIVE_FLOOR * squares.mean(1, keepdim=True).sqrt()).clamp_min(reference.ABSOLUTE_FLOOR)
    scale = (torch.maximum(norm, floor) * temperature**0.5).reciprocal()
    return tokens * scale, scale, (norm > floor).to(tokens.dtype).mul_(temperature)


def backward(grad: Tensor, scaled: Tensor, scale: Tensor, radial: Tensor) -> Tensor:
    """Gradient of the tokens (B, T, D)."""
    along = (grad * scaled).sum(2, keepdim=True).mul_(radial)
    return torch.addcmul(grad, scaled, along, value=-1).mul_(scale)


_forward_op = torch.library.custom_op("sfda_kernels::scale_tokens_cpu", forward, mutates_args=())
_backward_op = torch.library.custom_op("sfda_kernels::scale_tokens_cpu_backward", backward, mutates_args=())


@_forward_op.register_fake
def _(tokens: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    per_token = tokens.new_empty(*tokens.shape[:2], 1)
    return torch.empty_like(tokens), per_token, torch.empty_like(per_token)


@_backward_op.register_fake
def _(grad: Tensor, scaled: Tensor, scale: Tensor, radial: Tensor) -> Tensor:
    return torch.empty_like(grad)


def _setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor, Tensor]) -> None:
    tokens, ctx.temperature = inputs
    ctx.save_for_backward(tokens, *output)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zeros for the outputs that only the backward pass reads


def _differentiate(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 2
    tokens, *saved = ctx.saved_tensors
    if torch.is_grad_enabled():  # a second derivative is wanted: the reference has one
        scaled = reference.scale_tokens(tokens, ctx.temperature, True)
        return torch.autograd.grad(scaled, tokens, grad, create_graph=True)[0], None
    return _backward_op(grad, *saved), None


_forward_op.register_autograd(_differentiate, setup_context=_setup_context)
