"""Plain-torch maths of the dual attention: any device, float64, differentiable, bounded memory.

Tokens are what an attention map compares, (B, T, D): positions (T = N, D = C) or channels (T = C, D = N).
"""

from __future__ import annotations

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


def row_kl(p_rows: Tensor, q_rows: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of each row's attention, nats: (B, t, D) twice, (B, T, D) twice -> (B, t)."""
    log_p, log_q = log_attention(p_rows, p), log_attention(q_rows, q)
    return (log_p.exp() * (log_p - log_q)).sum(2)


def gram_kl(p: Tensor, q: Tensor) -> Tensor:
    """Mean over the rows of the KL of two attention maps (Eq. 7), nats: (B, T, D) twice -> (B,)."""
    return map_rows(row_kl, (p, q), (p, q)).mean(1)


def attend(tokens: Tensor, values: Tensor) -> Tensor:
    """Attention among the tokens applied to the values: (B, T, D) twice -> (B, T, D)."""
    return map_rows(attend_rows, (tokens,), (tokens, values))


def attended_l1(teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor]) -> Tensor:
    """Sum of |attend(teacher) - attend(student)| (Eq. 6), each side (tokens, values), (B, T, D) all: (B,)."""
    return (attend(*teacher) - attend(*student)).abs().sum((1, 2))


def gradients(output: Tensor, inputs: tuple[Tensor, ...], grad: Tensor) -> list[Tensor | None]:
    """Gradients that can be differentiated again, None for inputs that need none."""
    found = iter(torch.autograd.grad(output, [x for x in inputs if x.requires_grad], grad, create_graph=True))
    return [next(found) if x.requires_grad else None for x in inputs]
