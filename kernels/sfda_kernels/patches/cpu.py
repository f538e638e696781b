"""Patch entropy on the CPU: chunks of rows that stay in cache, and a backward pass of its own.

The bilinear upsampling is a product with a matrix each way: across for the whole image, which is still of low height,
then down for one chunk of rows at a time. Nothing as large as the upsampled logits of an image exists.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sfda_kernels.patches import reference
from sfda_kernels.precision import full_precision, widen

CHUNK = 2**17
"""Upsampled logits in one piece: half a megabyte in fp32, fastest of 2**14 to 2**20 where it was measured."""


def forward(logits: Tensor, grid: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy (B, P), rank (B, P) int64 and max_square () of logits (B, K, h, w) at `size` (H, W)."""
    height, width = size
    with full_precision(logits):
        finite, broken = _finite(logits)
        horizontal = _weights(finite, 3, width)
        across = finite if logits.shape[3] == width else finite @ horizontal.T
        pixels = across.new_empty(len(logits), height, width)
        square = across.new_zeros(())
        for rows, nodes, down in _bands(across, height):
            for image in range(len(logits)):
                z = across[image, :, nodes].clone() if down is None else down @ across[image, :, nodes]  # (K, rows, W)
                z -= z.amax(0)
                powers = z.exp()
                total = powers.sum(0)
                pixels[image, rows] = total.log() - z.mul_(powers).sum(0) / total
                square += (powers.square_().sum(0) / total.square()).sum()
        if broken is not None:
            vertical = _weights(finite, 2, height)
            pixels.masked_fill_(vertical @ broken.to(pixels) @ horizontal.T > 0, torch.nan)
            square.fill_(torch.nan)
        entropy = reference.patch_means(pixels, grid)
        return entropy, reference.rank_patches(entropy), square / (-2 * pixels.numel())


def backward(
    logits: Tensor,
    grad_entropy: Tensor | None,
    grad_max_square: Tensor | None,
    grid: int,
    size: tuple[int, int],
) -> Tensor:
    """Gradient of the logits, in their type, for upstream gradients (B, P) and (); NaN for an image with NaN or inf.

    With dH/dz = -p (log p + H) and d(sum_c p^2)/dz = 2 p (p - sum_c p^2).
    """
    height, width = size
    square_scale = 0.0 if grad_max_square is None else -grad_max_square.item() / (len(logits) * height * width)
    pixels = None if grad_entropy is None else _spread(grad_entropy, grid, size)
    with full_precision(logits):
        finite, broken = _finite(logits)
        horizontal = _weights(finite, 3, width)
        across = finite if logits.shape[3] == width else finite @ horizontal.T
        gradient = torch.zeros_like(across)
        for rows, nodes, down in _bands(across, height):
            for image in range(len(logits)):
                z = across[image, :, nodes].clone() if down is None else down @ across[image, :, nodes]
                z -= z.amax(0)
                p = z.exp()
                total = p.sum(0)
                p /= total
                slope = (p - (p * p).sum(0)).mul_(square_scale)
                if pixels is not None:
                    log_p = z.sub_(total.log())
                    slope -= log_p.sub_((p * log_p).sum(0)).mul_(pixels[image, rows])
                slope *= p
                gradient[image, :, nodes] += slope if down is None else down.T @ slope
        if broken is not None:
            gradient[broken.flatten(1).any(1)] = torch.nan
        return torch.empty_like(logits).copy_(gradient if logits.shape[3] == width else gradient @ horizontal)


def _finite(logits: Tensor) -> tuple[Tensor, Tensor | None]:
    """Logits in their accumulation type, -inf as in the reference, and where (B, h, w) any was NaN or inf, now 0."""
    wide = widen(logits).clamp_min(reference.MASKED)
    if wide.sum().isfinite():
        return wide, None
    broken = ~wide.isfinite()
    return wide.masked_fill(broken, 0), broken.any(1)


def _bands(across: Tensor, height: int) -> Iterator[tuple[slice, slice, Tensor | None]]:
    """Rows of pixels, the rows of nodes that they interpolate, the weights (rows, nodes), None where equal."""
    weights = _weights(across, 2, height)
    step = max(1, CHUNK // across[0, :, 0].numel())
    for start in range(0, height, step):
        rows = slice(start, start + step)
        if across.shape[2] == height:
            yield rows, rows, None
            continue
        used = weights[rows].any(0).nonzero()
        nodes = slice(int(used[0]), int(used[-1]) + 1)
        yield rows, nodes, weights[rows, nodes]


def _weights(logits: Tensor, dim: int, high: int) -> Tensor:
    """Bilinear weights (high, low) of the `low` nodes along `dim` of the logits."""
    low = logits.shape[dim]
    pixel = torch.arange(high)
    unit, scaled = 2 * high, ((2 * pixel + 1) * low - high).clamp_min(0)
    node = scaled // unit
    weight = (scaled - node * unit).double() / unit
    weights = torch.zeros(high, low, dtype=torch.float64)
    weights.scatter_(1, node[:, None], (1 - weight)[:, None])
    weights.scatter_add_(1, (node + 1).clamp_max(low - 1)[:, None], weight[:, None])
    return weights.to(logits)


def _spread(grad_entropy: Tensor, grid: int, size: tuple[int, int]) -> Tensor:
    """Gradient of each pixel's entropy, from that of its patch's mean: (B, P) -> (B, H, W)."""
    heights, widths = (torch.tensor([len(part) for part in torch.arange(n).tensor_split(grid)]) for n in size)
    share = grad_entropy.view(-1, grid, grid) / heights.outer(widths)
    return share.repeat_interleave(heights, 1).repeat_interleave(widths, 2)
