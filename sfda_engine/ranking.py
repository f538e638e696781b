"""Entropy ranking of patches, Eq. 13 and 14: which half of the batch is easy at each patch position."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

import sfda_kernels


class RankedPatches(NamedTuple):
    """easy (B, G*G) bool: the floor(B/2) images of lowest entropy at each position; max_square: scalar, Eq. 2 / 2."""

    easy: Tensor
    max_square: Tensor


def rank_target(logits: Tensor, *, grid: int, size: tuple[int, int]) -> RankedPatches:
    """Rank the patches of target predictions: logits (B, K, h, w), upsampled inside to `size` (height, width)."""
    patches = sfda_kernels.patch_entropy(logits, grid, size)
    return RankedPatches(easy=patches.rank < len(logits) // 2, max_square=patches.max_square)
