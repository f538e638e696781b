"""The paper's operators, plainly: every map in memory, logits at full size, autograd for the gradient.

The baseline of every ratio, and in float64 the reference. It shares no code with the engine or its kernels.

Shapes: B batch, C channels at N = h * w positions, T tokens of D numbers, K classes, G patch grid.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Dual attention, Eq. 6 to 10


def log_map(tokens: Tensor, temperature: float, cosine: bool) -> Tensor:
    """Log-softmax rows of the token Gram matrix, Eq. 8 and 9: (B, T, D) -> (B, T, T)."""
    if cosine:
        norm = tokens.norm(dim=2, keepdim=True)
        bound = (0.01 * norm.square().mean(1, keepdim=True).sqrt()).clamp_min(1e-12).detach()
        tokens = tokens / torch.where(norm > bound, norm, bound)
    scores = tokens @ tokens.transpose(1, 2)
    return F.log_softmax(scores / temperature if cosine else scores, dim=2)


def tokens_of(features: Tensor) -> tuple[Tensor, Tensor]:
    """Spatial (B, N, C) and channel (B, C, N) tokens of features (B, C, h, w)."""
    channels = features.flatten(2)
    return channels.transpose(1, 2), channels


def map_kl(synthetic: Tensor, target: Tensor, temperature: float = 0.1, cosine: bool = True) -> Tensor:
    """Row mean of KL(synthetic || target) of two attention maps, Eq. 7: tokens (B, T, D) twice -> (B,)."""
    log_p, log_q = log_map(synthetic, temperature, cosine), log_map(target, temperature, cosine)
    return (log_p.exp() * (log_p - log_q)).sum(2).mean(1)


def attention_kl(
    synthetic: Tensor, target: Tensor, temperature: float = 0.1, cosine: bool = True
) -> tuple[Tensor, Tensor]:
    """Eq. 7, spatial (B,) and channel (B,): features (B, C, h, w) twice."""
    spatial, channel = zip(tokens_of(synthetic), tokens_of(target), strict=True)
    return map_kl(*spatial, temperature, cosine), map_kl(*channel, temperature, cosine)


def attend(features: Tensor, temperature: float = 0.1, cosine: bool = True) -> Tensor:
    """A = concat(F S^T, R F), Eq. 10: (B, C, h, w) -> (B, 2C, N)."""
    positions, channels = tokens_of(features)
    spatial_map = log_map(positions, temperature, cosine).exp()
    channel_map = log_map(channels, temperature, cosine).exp()
    return torch.cat([channels @ spatial_map.transpose(1, 2), channel_map @ channels], 1)


def attention_l1(teacher: Tensor, student: Tensor, temperature: float = 0.1, cosine: bool = True) -> Tensor:
    """Eq. 6, mean over the 2C x N elements: features (B, C, h, w) twice -> (B,)."""
    return (attend(teacher, temperature, cosine) - attend(student, temperature, cosine)).abs().mean((1, 2))


# Patch entropy, Eq. 2, 13 and 14


def patch_entropy(logits: Tensor, grid: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy (B, G*G), rank (B, G*G) and MaxSquare () of logits (B, K, h, w) upsampled to `size`."""
    full = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    p, log_p = F.softmax(full, 1), F.log_softmax(full, 1)
    entropy_map = -(p * log_p).sum(1)
    rows = [row.tensor_split(grid, 2) for row in entropy_map.tensor_split(grid, 1)]
    entropy = torch.stack([patch.mean((1, 2)) for row in rows for patch in row], 1)
    rank = entropy.detach().sort(dim=0, stable=True).indices.sort(dim=0, stable=True).indices
    return entropy, rank, -(p**2).sum(1).mean() / 2
