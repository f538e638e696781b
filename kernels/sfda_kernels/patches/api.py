"""Patch entropy (Eq. 13), its ranking over the batch (Eq. 14) and MaxSquare (Eq. 2), in one pass."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from sfda_kernels.backend import Backend, use_kernels
from sfda_kernels.patches import patch_entropy as operator
from sfda_kernels.patches import reference


class PatchEntropy(NamedTuple):
    """Result of `patch_entropy`. Patches are numbered row by row, P = G * G of them."""

    entropy: Tensor
    """(B, P) mean per-pixel entropy of each patch, nats, in [0, log K]; differentiable."""
    rank: Tensor
    """(B, P) int64 rank over the batch at each position, 0 = lowest entropy; easy: rank < B // 2."""
    max_square: Tensor
    """Scalar -1/2 * mean over pixels of sum_c p_c^2, in [-1/2, -1/(2K)]; differentiable."""


def patch_entropy(logits: Tensor, grid: int, size: tuple[int, int], *, backend: Backend = "auto") -> PatchEntropy:
    """Patch entropies of low-resolution logits (B, K, h, w), upsampled to `size`: bilinear, corners not aligned.

    `size` is (H, W) in pixels, `grid` the patches per side G, with the borders of `torch.tensor_split` where
    G does not divide the size. Arithmetic and results are fp32 (float64 for float64 logits), also under
    autocast. Raises ValueError unless the logits are four-dimensional, floating and non-empty and
    1 <= grid <= min(size).
    """
    if logits.ndim != 4 or not logits.is_floating_point() or logits.numel() == 0:
        raise ValueError(
            "logits must be a non-empty floating-point tensor (B, K, h, w), "
            f"not {tuple(logits.shape)} of {logits.dtype}"
        )
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be two positive numbers (H, W), not {tuple(size)}")
    if not 1 <= grid <= min(size):
        raise ValueError(f"grid must be between 1 and the shorter side of {tuple(size)}, not {grid}")
    height, width = size
    kernels = use_kernels(backend, "patch_entropy", logits)
    if kernels or logits.device.type == "cpu":
        return PatchEntropy(*operator.patch_entropy(logits, grid, height, width, kernels))
    entropy, max_square = reference.patch_entropy(logits, grid, (height, width))
    return PatchEntropy(entropy, rank_patches(entropy), max_square)


def rank_patches(entropy: Tensor) -> Tensor:
    """Rank of each image's entropy at each patch position over the batch (Eq. 14): (B, P) -> (B, P) int64.

    0 is the lowest entropy; equal entropies rank in batch order; NaN ranks last. Raises ValueError unless
    `entropy` is 2-D.
    """
    if entropy.ndim != 2:
        raise ValueError(f"entropy must be (B, P), not {tuple(entropy.shape)}")
    return reference.rank_patches(entropy)
