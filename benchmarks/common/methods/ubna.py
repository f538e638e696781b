"""UBNA (Klingner, Termöhlen, Ritterbach, Fingscheidt, "Unsupervised BatchNorm Adaptation", arXiv:2011.08502).

Source statistics are mixed with target statistics by a momentum that shrinks with every batch. Settings of
github.com/ifnspaml/UBNA, experiments/gta_to_cs/adapt_ubna.sh and arguments.py: momentum 0.1 exp(-0.08 k) at batch k,
50 batches; its "+" variant, which also shrinks with depth, is left out.

Differs from the paper: batches of the table's size, not of 6; all BN layers, where its code adapts the encoder's,
since the networks here have BN in their heads too; no color jitter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.common.methods.target import Target, forward, frames
from sfda_engine.models.norms import set_momentum

MOMENTUM = 0.1
DECAY = 0.08
BATCHES = 50


def ubna(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """At most 50 steps, from the source statistics."""
    for index, images in enumerate(frames(target, 0, min(target.steps, BATCHES))):
        set_momentum(network, MOMENTUM * math.exp(-DECAY * index))
        with torch.no_grad():
            forward(network, images)
        yield network
