"""Entropy ranking of patches, Eq. 13 and 14: which half of the batch is easy at each patch position."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

import sfda_kernels
from sfda_engine.distributed.collectives import gather, mean, own_share, processes


class RankedPatches(NamedTuple):
    """easy (b, G*G) bool: whether an image is among the floor(B/2) of lowest entropy at each position, of the B images
    that all processes hold; max_square: scalar, Eq. 2 / 2."""

    easy: Tensor
    max_square: Tensor


def rank_target(logits: Tensor, *, grid: int, size: tuple[int, int]) -> RankedPatches:
    """Rank the patches of target predictions over the global batch.

    logits (b, K, h, w), this process's share, upsampled inside to `size` (height, width).
    """
    patches = sfda_kernels.patch_entropy(logits, grid, size)
    rank = patches.rank
    if processes() > 1:
        rank = own_share(sfda_kernels.rank_patches(gather(patches.entropy.detach())))
    return RankedPatches(easy=rank < processes() * len(logits) // 2, max_square=mean(patches.max_square))
