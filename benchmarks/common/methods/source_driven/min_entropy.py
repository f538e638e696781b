"""MinEnt (Vu, Jain, Bucher, Cord, Pérez, "ADVENT", CVPR 2019): cross-entropy on the source, entropy on the target.

Settings of github.com/valeoai/ADVENT, advent/domain_adaptation/config.py and train_UDA.py: the entropy, as a share of
log K, weighs 0.001; SGD, learning rate 2.5e-4, momentum 0.9, weight decay 5e-4, polynomial decay of power 0.9.

Differs from the paper: starts at the source network, not at ImageNet's weights; one output, without the auxiliary one
(weights 0.1 and 0.0002 there); the decay ends with the run (120,000 of 250,000 steps there); batches of the table's
size, not of one frame; augmented source frames; learning rate and BN as in the package's docstring.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from benchmarks.common.methods.min_entropy import entropy_loss
from benchmarks.common.methods.source_driven.source import LabelledSource, descend_beside_source
from benchmarks.common.methods.target import Target

WEIGHT = 0.001


def source_min_entropy(network: nn.Module, target: Target, labelled: LabelledSource) -> Iterator[nn.Module]:
    """Cross-entropy + 0.001 times the normalized entropy."""
    yield from descend_beside_source(
        network, target, labelled, lambda logits, size: WEIGHT * entropy_loss(logits, size)
    )  # fmt: skip
