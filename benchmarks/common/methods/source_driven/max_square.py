"""MaxSquare (Chen, Xue, Cai, "Domain adaptation for semantic segmentation with maximum squares loss", ICCV 2019):
cross-entropy on the source, the maximum squares loss on the target; plain, and with image-wise class weights (IW).

Settings of github.com/ZJULearning/MaxSquareLoss, README.md, utils/loss.py and tools/solve_gta5.py: from the source
network; the target loss weighs 0.1, IW with ratio 0.2 and not halved; SGD, learning rate 2.5e-4, momentum 0.9, weight
decay 5e-4, polynomial decay of power 0.9.

Differs from the paper: no multi-level outputs with self-produced guidance; batches of the table's size, not of one
frame; the source augmentation of `train_source`; learning rate and BN as in the package's docstring.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from benchmarks.common.methods.max_square import image_weighted_loss, plain_loss
from benchmarks.common.methods.source_driven.source import LabelledSource, descend_beside_source
from benchmarks.common.methods.target import Target

WEIGHT = 0.1


def source_max_square(network: nn.Module, target: Target, labelled: LabelledSource) -> Iterator[nn.Module]:
    """Cross-entropy + 0.1 times the plain loss."""
    yield from descend_beside_source(network, target, labelled, lambda logits, size: WEIGHT * plain_loss(logits, size))


def source_max_square_iw(network: nn.Module, target: Target, labelled: LabelledSource) -> Iterator[nn.Module]:
    """Cross-entropy + 0.1 times the image-wise weighted loss."""
    yield from descend_beside_source(
        network, target, labelled, lambda logits, size: WEIGHT * image_weighted_loss(logits, size)
    )  # fmt: skip
