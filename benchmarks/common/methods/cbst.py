"""CBST (Zou, Yu, Kumar, Wang, "Class-balanced self-training", ECCV 2018) without its source images.

Each round labels the frames by the network: probabilities are divided by a threshold of their class, the confidence
that its surest portion of pixels reaches; the label is the largest quotient where that is at least 1. Cross-entropy on
those labels follows. Settings of github.com/yzou2/CBST, README.md, issegm/solve_AO.py and issegm/solve_ST.py: 6 rounds,
portion 0.2 and 0.05 more each round up to 0.5 (SYNTHIA's recipe; 0.15 at first for GTA5), SGD with learning rate
1e-4, momentum 0.9, weight decay 5e-4, images enlarged by up to 1.3.

Differs from the paper: no source images in any round; the rounds share the table's steps instead of two epochs each;
no mining of patches with rare classes and no zooming out (frames here are seen whole, not in crops of 500); no spatial
prior, which is counted on source labels; polynomial decay of power 0.9 over all rounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from benchmarks.common.methods.labelling import class_thresholds, label_frames
from benchmarks.common.methods.target import Target, descend, forward, labelled_frames, poly_sgd, rounds, warm_start
from sfda_engine.data.folder import IGNORE
from sfda_engine.method.steps import SelfTraining
from sfda_engine.models.segmenter import upsample

ROUNDS = 6
ZOOM = 1.3


def balanced_labels(probabilities: Tensor, thresholds: Tensor) -> Tensor:
    """Labels (B, H, W) by the largest quotient of probabilities (B, K, H, W) and thresholds (K,), 255 below 1."""
    quotient, label = (probabilities / thresholds.view(1, -1, 1, 1)).max(1)
    return label.masked_fill(quotient < 1, IGNORE)


def labelled_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, K, h, w) upsampled to labels (B, H, W), 255 ignored; 0 without a label."""
    logits = upsample(logits.float(), (labels.shape[-2], labels.shape[-1]))
    total = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp_min(1)


def self_labelled(network: nn.Module, target: Target) -> Iterator[SelfTraining]:
    """A batch of frames for every step, labelled anew by the network as it is when a round begins."""
    for index, (start, stop) in enumerate(rounds(target.steps, ROUNDS)):
        thresholds = class_thresholds(network, target, min(0.2 + 0.05 * index, 0.5))
        labelled = label_frames(network, target, partial(balanced_labels, thresholds=thresholds))
        yield from labelled_frames(target, labelled, start, stop, zoom=ZOOM)


def cbst(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """Rounds of labelling and of descent on the labels."""
    warm_start(network, target)
    optimizer, schedule = poly_sgd(network, target, lr=1e-4, weight_decay=5e-4)

    def loss(batch: SelfTraining) -> Tensor:
        return labelled_loss(forward(network, batch.images).logits, batch.labels)

    yield from descend(network, target, optimizer, schedule, self_labelled(network, target), loss)
