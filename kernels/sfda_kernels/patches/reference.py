"""Plain-torch maths of the patch entropy: any device, float64, differentiable, bounded memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sfda_kernels.pieces import Tensors, map_images
from sfda_kernels.precision import full_precision, widen

MASKED = -1e30
"""What a logit of -inf counts as: its p is zero all the same, and 0 * -inf in an interpolation is not NaN."""


def pixel_entropy(logits: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Entropy (nats) and sum over classes of p^2 of each upsampled pixel: (B, K, h, w) -> (B, H, W) twice."""
    logits = logits.clamp_min(MASKED)
    if logits.shape[2:] != size:
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
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


def patch_entropy(logits: Tensor, grid: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Patch entropies (B, G * G) and MaxSquare () of logits (B, K, h, w) at `size` (H, W), images in groups."""

    def sums(logits: Tensor) -> Tensors:
        entropy, square = pixel_entropy(logits, size)
        return patch_means(entropy, grid), square.sum((1, 2))

    height, width = size
    with full_precision(logits):
        entropy, square = map_images(sums, widen(logits), logits.shape[1] * height * width)
        return entropy, square.sum() / (-2 * len(logits) * height * width)
