"""Plain-torch maths of the dual attention: any device, float64, differentiable, bounded memory.

Tokens are what an attention map compares, (B, T, D): positions (T = N, D = C) or channels (T = C, D = N).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sfda_kernels.pieces import map_rows

RELATIVE_FLOOR = 0.01
ABSOLUTE_FLOOR = 1e-12


def scale_tokens(tokens: Tensor, temperature: float, cosine: bool) -> Tensor:
    """Rows whose Gram matrix is the logits of the attention map, (B, T, D) -> (B, T, D).

    Cosine: x / max(norm of x, 0.01 * RMS row norm of the sample) / sqrt(temperature), the bound detached, so
    that a dead row is scaled by a constant instead of getting a gradient of 1/norm. Otherwise x itself.
    """
    if not cosine:
        return tokens
    norm = torch.linalg.vector_norm(tokens, dim=2, keepdim=True)
    rms = norm.detach().square().mean(1, keepdim=True).sqrt()
    bound = (RELATIVE_FLOOR * rms).clamp_min(ABSOLUTE_FLOOR)
    return tokens / (torch.where(norm > bound, norm, bound) * temperature**0.5)


def log_attention(rows: Tensor, tokens: Tensor) -> Tensor:
    """Log of the attention of each row over all tokens (Eq. 8, 9): (B, t, D), (B, T, D) -> (B, t, T)."""
    return F.log_softmax(rows @ tokens.mT, dim=2)


def attend_rows(rows: Tensor, tokens: Tensor, values: Tensor) -> Tensor:
    """Attention of the rows applied to the values: (B, t, D), (B, T, D), (B, T, D) -> (B, t, D)."""
    return log_attention(rows, tokens).exp() @ values


def forward_divergence(p_rows: Tensor, q_rows: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of each row's attention, nats: (B, t, D) twice, (B, T, D) twice -> (B, t)."""
    return _kl(log_attention(p_rows, p), log_attention(q_rows, q))


def reverse_divergence(p_rows: Tensor, q_rows: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """KL(q || p), else as `forward_divergence`."""
    return forward_divergence(q_rows, p_rows, q, p)


def js_divergence(p_rows: Tensor, q_rows: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence (mean of the two KLs to the mixture), else as `forward_divergence`."""
    log_p, log_q = log_attention(p_rows, p), log_attention(q_rows, q)
    log_mixture = torch.logaddexp(log_p, log_q) - torch.log(log_p.new_tensor(2.0))
    return (_kl(log_p, log_mixture) + _kl(log_q, log_mixture)) / 2


DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "forward": forward_divergence,
    "reverse": reverse_divergence,
    "js": js_divergence,
}


def gram_divergence(p: Tensor, q: Tensor, divergence: str) -> Tensor:
    """Mean over the rows of the divergence of two attention maps, nats: (B, T, D) twice -> (B,)."""
    return map_rows(DIVERGENCES[divergence], (p, q), (p, q)).mean(1)


def attend(tokens: Tensor, values: Tensor) -> Tensor:
    """Attention among the tokens applied to the values: (B, T, D) twice -> (B, T, D)."""
    return map_rows(attend_rows, (tokens,), (tokens, values))


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(2)


def reference_gradients(output: Tensor, inputs: tuple[Tensor, ...], grad: Tensor) -> list[Tensor | None]:
    """Gradients that can be differentiated again, None for inputs that need none."""
    found = iter(torch.autograd.grad(output, [x for x in inputs if x.requires_grad], grad, create_graph=True))
    return [next(found) if x.requires_grad else None for x in inputs]
