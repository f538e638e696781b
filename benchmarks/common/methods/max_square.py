"""MaxSquare (Chen, Xue, Cai, "Domain adaptation for semantic segmentation with maximum squares loss", ICCV 2019)
without its source term; plain, and with image-wise class weights (IW).

Settings of github.com/ZJULearning/MaxSquareLoss, README.md and utils/loss.py: SGD, learning rate 2.5e-4, momentum 0.9,
weight decay 5e-4, polynomial decay of power 0.9; plain loss -1/2 mean of p^2 over pixels and classes; IW with ratio
0.2, summed, divided by B K and not halved.

Differs from the paper: no cross-entropy on the source, hence no weight against it (0.1 there, see the package's
docstring); one learning rate for all layers, ten times as much for the classifier there; no multi-level outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.common.methods.entropy import size_of
from benchmarks.common.methods.target import Target, descend, forward, frames, poly_sgd, warm_start
from sfda_engine.distributed.collectives import mean
from sfda_engine.models.segmenter import upsample

LEARNING_RATE = 2.5e-4


def plain_loss(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """-1/2 mean over pixels and classes of p^2, from logits (B, K, h, w) upsampled to `size` (H, W)."""
    return -0.5 * upsample(logits.float(), size).softmax(1).square().mean()


def image_weighted_loss(logits: Tensor, size: tuple[int, int], *, ratio: float = 0.2) -> Tensor:
    """-Sum of w p^2 / (B K) with image-wise class weights: rare classes of an image count more. Scalar, fp32.

    logits (B, K, h, w), upsampled to `size` (H, W). Pixels of class c (by argmax) weigh 1 / (n_c^ratio n^(1 - ratio)),
    n_c of the n pixels of that image.
    """
    probabilities = upsample(logits.float(), size).softmax(1)
    batch, classes = probabilities.shape[:2]
    with torch.no_grad():
        predicted = probabilities.argmax(1)
        counts = torch.nn.functional.one_hot(predicted.flatten(1), classes).sum(1).float()
        pixels = counts.sum(1, keepdim=True)
        weights = 1 / (counts.pow(ratio) * pixels.pow(1 - ratio)).clamp_min(1)
        pixel_weights = weights.gather(1, predicted.flatten(1)).view_as(predicted)
    return mean(-(probabilities.square().sum(1) * pixel_weights).sum() / (batch * classes))


def max_square(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """All weights descend on the plain loss."""
    yield from max_square_at(network, target, plain_loss, lr=LEARNING_RATE)


def max_square_iw(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """All weights descend on the image-wise weighted loss."""
    yield from max_square_at(network, target, image_weighted_loss, lr=LEARNING_RATE)


def max_square_at(
    network: nn.Module, target: Target, of_logits: Callable[[Tensor, tuple[int, int]], Tensor], *, lr: float
) -> Iterator[nn.Module]:
    """All weights descend on `of_logits`, a loss of logits (B, K, h, w) and the size (H, W)."""
    warm_start(network, target)
    optimizer, schedule = poly_sgd(network, target, lr=lr, weight_decay=5e-4)

    def loss(images: Tensor) -> Tensor:
        return of_logits(forward(network, images).logits, size_of(images))

    yield from descend(network, target, optimizer, schedule, frames(target), loss)
