"""Plain-torch maths of the public functions: any device, float64, differentiable, bounded memory.

Tokens are what an attention map compares, (B, T, D): positions (T = N, D = C) or channels (T = C, D = N).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

MAP_BUDGET = 2**22
"""Most elements of an attention map, or of upsampled logits, held in one piece (16 MiB in fp32)."""

MASKED = -1e30
"""What a logit of -inf counts as: its p is zero all the same, and 0 * -inf in an interpolation is not NaN."""

RELATIVE_FLOOR = 0.01
ABSOLUTE_FLOOR = 1e-12

Tensors = tuple[Tensor, ...]


def widen(tensor: Tensor) -> Tensor:
    """The tensor in its accumulation type: float64 stays, every other floating type becomes float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def full_precision(tensor: Tensor) -> torch.autocast:
    """A context without autocast: a Gram matrix rounded to bfloat16 makes the divergence meaningless."""
    return torch.autocast(tensor.device.type, enabled=False)


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


def pixel_entropy(logits: Tensor, size: tuple[int, int], align_corners: bool) -> tuple[Tensor, Tensor]:
    """Entropy (nats) and sum over classes of p^2 of each upsampled pixel: (B, K, h, w) -> (B, H, W) twice."""
    logits = logits.clamp_min(MASKED)
    if logits.shape[2:] != size:
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    log_p = F.log_softmax(logits, dim=1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(1)
    return entropy, p.square().sum(1)


def patch_means(pixels: Tensor, grid: int) -> Tensor:
    """Mean of each patch, patches row by row, borders of `torch.tensor_split`: (B, H, W) -> (B, G * G)."""
    bands = torch.stack([band.mean(1) for band in pixels.tensor_split(grid, 1)], 1)
    return torch.stack([cell.mean(2) for cell in bands.tensor_split(grid, 2)], 2).flatten(1)


def rank_patches(entropy: Tensor) -> Tensor:
    """Rank over the batch at each position, 0 = lowest, ties in batch order, NaN last: (B, P) -> (B, P) int64."""
    order = entropy.detach().argsort(dim=0, stable=True)
    return torch.argsort(order, dim=0)


def patch_entropy(
    logits: Tensor, grid: int, size: tuple[int, int], align_corners: bool = False
) -> tuple[Tensor, Tensor]:
    """Patch entropies (B, G * G) and MaxSquare () of logits (B, K, h, w) at `size` (H, W), images in groups."""

    def sums(logits: Tensor) -> Tensors:
        entropy, square = pixel_entropy(logits, size, align_corners)
        return patch_means(entropy, grid), square.sum((1, 2))

    height, width = size
    with full_precision(logits):
        entropy, square = map_images(sums, widen(logits), logits.shape[1] * height * width)
        return entropy, square.sum() / (-2 * len(logits) * height * width)


def map_rows(function: Callable[..., Tensor], rows: Tensors, context: Tensors) -> Tensor:
    """`function(*rows, *context)` over the T rows of tensors (B, T, D), in pieces of at most `MAP_BUDGET`.

    A piece is a group of samples, or a group of rows of one sample where a single T x T map is over the
    budget; its maps are recomputed in the backward pass instead of kept.
    """
    batch, count = rows[0].shape[:2]
    if batch * count * count <= MAP_BUDGET:
        return function(*rows, *context)
    samples, height = max(1, MAP_BUDGET // count**2), max(1, MAP_BUDGET // count)
    groups = zip(_split(rows, samples, 0), _split(context, samples, 0), strict=True)
    return torch.cat(
        [
            torch.cat([_recompute(function, *piece, *whole) for piece in _split(group, height, 1)], 1)
            for group, whole in groups
        ]
    )


def map_images(function: Callable[[Tensor], Tensors], images: Tensor, elements: int) -> Tensors:
    """`function(images)` in groups of at most `MAP_BUDGET` elements, or one image, of `elements` each."""
    if len(images) == 1 or len(images) * elements <= MAP_BUDGET:
        return function(images)
    parts = [_recompute(function, group) for group in images.split(max(1, MAP_BUDGET // elements))]
    return tuple(torch.cat(results) for results in zip(*parts, strict=True))


def _split(tensors: Tensors, size: int, dim: int) -> list[Tensors]:
    return list(zip(*(tensor.split(size, dim) for tensor in tensors), strict=True))


def _recompute(function: Callable[..., Any], *tensors: Tensor) -> Any:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)
    return function(*tensors)
