"""CBST (Zou, Yu, Kumar, Wang, "Class-balanced self-training", ECCV 2018): cross-entropy on the source's labels and on
labels of the network's own on the target.

Rounds, portions and labels are those of `benchmarks.common.methods.cbst`. Settings of github.com/yzou2/CBST, README.md,
issegm/solve_AO.py and issegm/solve_ST.py, as there; the learning rate, 1e-4 at first, is constant in a round and
divided by sqrt 2 after each.

Differs from the paper: a batch of source frames beside each batch of target frames, weight 1 each, as in its equation;
its code mixes 2 to 6 % of the source images (3 % of GTA5 at first, 749 beside 2,975 of the target) into one list. The
rounds share the table's steps instead of two epochs each; no mining of patches with rare classes, no zooming out, no
averaging with the mirrored frame before labelling; no spatial prior, as in its SYNTHIA recipe (CBST, not CBST-SP); BN
as in the package's docstring.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.common.methods.cbst import ROUNDS, labelled_loss, self_labelled
from benchmarks.common.methods.source_driven.source import LabelledSource, SourceBatch, source_frames, source_loss
from benchmarks.common.methods.target import Target, descend, forward, rounds, warm_start
from sfda_engine.method.steps import SelfTraining


def decay(step: int, spans: list[tuple[int, int]]) -> float:
    """Factor of the learning rate: 1 / sqrt 2 for each round (start, stop) that is over."""
    return math.sqrt(0.5) ** sum(stop <= step for _, stop in spans)


def source_cbst(network: nn.Module, target: Target, labelled: LabelledSource) -> Iterator[nn.Module]:
    """Rounds of labelling and of descent on both kinds of labels."""
    warm_start(network, target)
    optimizer = SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    spans = rounds(target.steps, ROUNDS)
    schedule = LambdaLR(optimizer, lambda step: decay(step, spans))
    batches = zip(source_frames(target, labelled), self_labelled(network, target), strict=True)

    def loss(batch: tuple[SourceBatch, SelfTraining]) -> Tensor:
        source, own = batch
        return source_loss(network, source) + labelled_loss(forward(network, own.images).logits, own.labels)

    yield from descend(network, target, optimizer, schedule, batches, loss)
