"""Cross-entropy on pseudo-labels of target frames: the self-training term beside the paper's L_TAR (Eq. 1, 2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sfda_engine.data.folder import IGNORE
from sfda_engine.distributed.collectives import total
from sfda_engine.models.segmenter import upsample

SMOOTHING = 20
"""Pixels added to each class's counts, so that a class of a few pixels gets no extreme weight."""


def pseudo_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of upsampled logits (B, K, h, w) against pseudo-labels (B, H, W) int64, 255 ignored. Scalar, nats.

    A pixel of class c weighs (pixels labelled c) / (pixels predicted c), over the global batch: a class that the
    student begins to forget counts more, one that it overuses less. Plain cross-entropy lets small classes vanish here.
    """
    logits = upsample(logits.float(), (labels.shape[-2], labels.shape[-1]))
    labelled = labels != IGNORE
    with torch.no_grad():
        classes = logits.shape[1]
        wanted = torch.bincount(labels[labelled], minlength=classes)
        predicted = torch.bincount(logits.argmax(1)[labelled], minlength=classes)
        wanted, predicted = total(torch.stack([wanted, predicted])).unbind()
        weights = (wanted + SMOOTHING) / (predicted + SMOOTHING)
    # the weighted mean; a batch without a labelled pixel has a loss of 0, not 0 / 0
    weighted = functional.cross_entropy(logits, labels, weights, ignore_index=IGNORE, reduction="sum")
    weighted, weight = total(torch.stack([weighted, weights[labels[labelled]].sum()])).unbind()
    return weighted / weight.clamp_min(1)
