"""L_TAR, Eq. 2: the maximum squares loss on target predictions (Chen, Xue, Cai, ICCV 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from sfda_engine.distributed.collectives import mean
from sfda_engine.models.segmenter import upsample


def image_weighted_max_square(logits: Tensor, size: tuple[int, int], *, ratio: float = 0.2) -> Tensor:
    """-1/2 sum of w p^2 with image-wise class weights: rare classes of an image count more. Scalar.

    logits (B, K, h, w), upsampled to `size`. Pixels of class c (by argmax) weigh 1 / (n_c^ratio n^(1 - ratio)), n_c
    of the n pixels of that image; the sum is divided by B K, as in MaxSquare's image-wise weighting, and halved
    as our plain loss is. At one weight it is about K times weaker than the plain loss.
    """
    probabilities = upsample(logits.float(), size).softmax(1)
    batch, classes = probabilities.shape[:2]
    with torch.no_grad():
        predicted = probabilities.argmax(1)
        counts = torch.nn.functional.one_hot(predicted.flatten(1), classes).sum(1).float()
        pixels = counts.sum(1, keepdim=True)
        weights = 1 / (counts.pow(ratio) * pixels.pow(1 - ratio)).clamp_min(1)
        pixel_weights = weights.gather(1, predicted.flatten(1)).view_as(predicted)
    return mean(-0.5 * (probabilities.square().sum(1) * pixel_weights).sum() / (batch * classes))
