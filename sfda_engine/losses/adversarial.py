"""L_ADV, Eq. 15: the discriminator tells easy from hard patches, the student makes the hard ones look easy."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfda_engine.distributed.collectives import mean_of_all


def split_patches(maps: Tensor, grid: int) -> Tensor:
    """Cut maps (B, K, H, W) into a grid: (B, G*G, K, ph, pw), borders as `torch.tensor_split`.

    Where the grid does not divide the size, patches differ by a pixel and are resized to the largest.
    """
    rows = [row.tensor_split(grid, dim=3) for row in maps.tensor_split(grid, dim=2)]
    patches = [patch for row in rows for patch in row]
    size = (-(-maps.shape[2] // grid), -(-maps.shape[3] // grid))
    fitted = [
        patch if patch.shape[2:] == size else functional.interpolate(patch, size, mode="bilinear", align_corners=False)
        for patch in patches
    ]
    return torch.stack(fitted, 1)


def _positions(easy: Tensor) -> Tensor:
    return torch.arange(easy.shape[1], device=easy.device).expand_as(easy)


def discriminator_loss(discriminator: nn.Module, patches: Tensor, easy: Tensor) -> Tensor:
    """Binary cross-entropy of the discriminator, easy = 1 and hard = 0, each side averaged over its patches.

    patches (B, P, K, ph, pw), detached here; easy (B, P) bool. Differs from the paper: Eq. 15 read literally has D
    maximize its own error.
    """
    logits = discriminator(patches.detach().flatten(0, 1), _positions(easy).flatten()).float()
    mask = easy.flatten()
    return mean_of_all(functional.softplus(-logits[mask])) + mean_of_all(functional.softplus(logits[~mask]))


def adversarial_loss(discriminator: nn.Module, patches: Tensor, easy: Tensor) -> Tensor:
    """What the student minimizes: its hard patches called easy (non-saturating); easy patches get no gradient.

    patches (B, P, K, ph, pw); easy (B, P) bool. The discriminator must be frozen by the caller.
    """
    hard = ~easy
    return mean_of_all(functional.softplus(-discriminator(patches[hard], _positions(easy)[hard]).float()))
