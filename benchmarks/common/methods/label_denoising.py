"""LD, the label denoising of LDBE (You, Li, Zhu, Chen, Huang, "Domain adaptive semantic segmentation without source
data", ACM MM 2021, arXiv:2110.06484): positive and negative learning. The paper is source-free itself.

Positive: cross-entropy on pixels that any class's threshold (its surest portion over the data set) or the image's own
surest portion lets through. Negative: the k-th likeliest class of every pixel is pushed down by -log(1 - p), k drawn
around half the classes at each step. Both have weight 1, as has the entropy that its code adds. Settings of
github.com/fumyou13/LDBE, config/ldbe_config.yml and trainer/ldbe_trainer.py: two rounds with portions 0.1 and 0.15,
SGD with learning rate 1e-4, divided by sqrt 2 in the second, momentum 0.9, weight decay 5e-4, polynomial decay of
power 0.9 in each round.

Differs from the paper: k deviates from half the classes by 3/19 of them (by 3 of 19 there; with 9 classes, 4 - 3 would
deny pixels their own label); images are enlarged by up to 1.5 but not reduced; BN as for every method here, frozen
there; one learning rate for all layers, ten times as much for the classifier there; the boundary enhancement that
follows as a second stage is left out, as in the rows that its authors call LD.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from random import Random

from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.common.methods.cbst import labelled_loss
from benchmarks.common.methods.entropy import mean_entropy
from benchmarks.common.methods.labelling import class_thresholds, label_frames
from benchmarks.common.methods.target import Target, descend, forward, labelled_frames, rounds, warm_start
from sfda_engine.data.folder import IGNORE
from sfda_engine.method.steps import SelfTraining
from sfda_engine.models.segmenter import upsample

PORTIONS = (0.1, 0.15)
ZOOM = 1.5


def positive_labels(probabilities: Tensor, thresholds: Tensor, portion: float) -> Tensor:
    """Argmax labels (B, H, W) of probabilities (B, K, H, W) where a threshold (K,) is passed or the pixel is among the
    surest `portion` of its image; 255 elsewhere."""
    confidence, label = probabilities.max(1)
    kept = max(1, int(portion * confidence[0].numel()))
    local = confidence.flatten(1).topk(kept).values[:, -1]
    sure = (probabilities > thresholds.view(1, -1, 1, 1)).any(1) | (confidence > local.view(-1, 1, 1))
    return label.masked_fill(~sure, IGNORE)


def negative_loss(logits: Tensor, rank: int) -> Tensor:
    """Mean over pixels of -log(1 - p) of the `rank`-th likeliest class (1 = the likeliest); logits (B, K, H, W)."""
    probabilities = logits.softmax(1)
    denied = probabilities.topk(rank, dim=1).indices[:, -1:].detach()
    return -(1 - probabilities.gather(1, denied)).clamp_min(1e-5).log().mean()


def negative_rank(classes: int, dice: Random) -> int:
    """Half the classes, give or take 3/19 of them."""
    width = round(3 * classes / 19)
    return max(2, min(classes, classes // 2 + dice.randint(-width, width)))


def label_denoising(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """Two rounds of labelling and of descent on positive, negative and entropy loss."""
    warm_start(network, target)
    optimizer = SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    spans = rounds(target.steps, len(PORTIONS))
    schedule = LambdaLR(optimizer, lambda step: decay(step, spans))
    dice = Random(target.seed)

    def batches() -> Iterator[SelfTraining]:
        for (start, stop), portion in zip(spans, PORTIONS, strict=False):
            thresholds = class_thresholds(network, target, portion)
            labelled = label_frames(network, target, partial(positive_labels, thresholds=thresholds, portion=portion))
            yield from labelled_frames(target, labelled, start, stop, zoom=ZOOM)

    def loss(batch: SelfTraining) -> Tensor:
        size = batch.labels.shape[-2], batch.labels.shape[-1]
        logits = forward(network, batch.images).logits
        rank = negative_rank(logits.shape[1], dice)
        negative = negative_loss(upsample(logits.float(), size), rank)
        return labelled_loss(logits, batch.labels) + mean_entropy(logits, size) + negative

    yield from descend(network, target, optimizer, schedule, batches(), loss)


def decay(step: int, spans: list[tuple[int, int]]) -> float:
    """Factor of the learning rate: polynomial in each round, each round begun at 1 / sqrt 2 of the one before."""
    index = next((i for i, (_, stop) in enumerate(spans) if step < stop), None)
    if index is None:
        return 0.0
    start, stop = spans[index]
    return math.sqrt(0.5) ** index * (1 - (step - start) / (stop - start)) ** 0.9
