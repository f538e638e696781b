"""ClassMix (Olsson et al., WACV 2021): paste the pixels of half the classes of one frame onto another."""

from __future__ import annotations

import torch
from torch import Tensor

from sfda_engine.data.folder import IGNORE


def class_mix(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Paste onto each frame of a batch half the classes (at random, rounded up) of the frame before it.

    images (B, 3, H, W) floating, labels (B, H, W) int64; `generator` is a CPU generator. Pixels labelled 255 are never
    pasted. Small objects meet new surroundings this way, and a student cannot lean on the usual ones.
    """
    donors, donated = images.roll(1, 0), labels.roll(1, 0)
    pasted = torch.stack([_half_of_the_classes(label, generator) for label in donated])
    return torch.where(pasted[:, None], donors, images), torch.where(pasted, donated, labels)


def _half_of_the_classes(label: Tensor, generator: torch.Generator) -> Tensor:
    """Mask (H, W) of the pixels of half the classes of one label map."""
    classes = label.unique()
    classes = classes[classes != IGNORE]
    chosen = torch.randperm(len(classes), generator=generator)[: -(-len(classes) // 2)]
    return torch.isin(label, classes[chosen.to(classes.device)])
