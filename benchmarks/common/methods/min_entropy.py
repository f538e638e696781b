"""MinEnt (Vu, Jain, Bucher, Cord, Pérez, "ADVENT", CVPR 2019) without its source term.

Entropy of the target predictions at the input's size, divided by log K so that it lies in 0..1. Settings of
github.com/valeoai/ADVENT, advent/domain_adaptation/config.py: SGD, learning rate 2.5e-4, momentum 0.9, weight decay
5e-4, polynomial decay of power 0.9.

Differs from the paper: no cross-entropy on the source, hence no weight against it (0.001 there, see the package's
docstring); one learning rate for all layers, ten times as much for the classifier there; one output, not two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor, nn

from benchmarks.common.methods.entropy import mean_entropy, size_of
from benchmarks.common.methods.target import Target, descend, forward, frames, poly_sgd, warm_start


def entropy_loss(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean entropy of logits (B, K, h, w) upsampled to `size` (H, W), as a share of log K."""
    return mean_entropy(logits, size) / math.log(logits.shape[1])


def min_entropy(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """At its own learning rate."""
    yield from min_entropy_at(network, target, lr=2.5e-4)


def min_entropy_at(network: nn.Module, target: Target, *, lr: float) -> Iterator[nn.Module]:
    """All weights descend on the normalized entropy."""
    warm_start(network, target)
    optimizer, schedule = poly_sgd(network, target, lr=lr, weight_decay=5e-4)

    def loss(images: Tensor) -> Tensor:
        return entropy_loss(forward(network, images).logits, size_of(images))

    yield from descend(network, target, optimizer, schedule, frames(target), loss)
