"""How far label maps agree, class by class, so that a rare class counts as much as the road.

Shapes: V views, N frames, K classes, h/w the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor


def confusion_counts(first: Tensor, second: Tensor, classes: int) -> Tensor:
    """(N, K, K) int64: how often the first says row and the second column, of two label maps (N, ...) of one shape."""
    own, other = first.flatten(1).long(), second.flatten(1).long()
    frame = torch.arange(len(own), device=own.device)[:, None]
    pairs = (frame * classes + own) * classes + other
    return torch.bincount(pairs.flatten(), minlength=len(own) * classes**2).view(len(own), classes, classes)


def macro_iou(confusion: Tensor) -> Tensor:
    """Mean IoU (...) float64, 0..1, over the classes that either labels, from counts (..., K, K); symmetric."""
    confusion = confusion.double()
    hits = confusion.diagonal(dim1=-2, dim2=-1)
    union = confusion.sum(-1) + confusion.sum(-2) - hits
    return (hits / union.clamp_min(1)).sum(-1) / (union > 0).sum(-1).clamp_min(1)


def pairwise_counts(labels: Tensor) -> Tensor:
    """(V, V, N, K, K) int32 confusion counts of label maps (V, N, h, w) uint8, each pair of views by frame.

    K is the number of classes that any map has, in their order: of 150 classes few are seen, and counts of all pairs
    of them would take gigabytes.
    """
    seen, labels = labels.unique(return_inverse=True)
    views, frames, classes = *labels.shape[:2], len(seen)
    counts = torch.zeros(views, views, frames, classes, classes, dtype=torch.int32)
    for row in range(views):
        for column in range(row, views):
            pair = confusion_counts(labels[row], labels[column], classes).int()
            counts[row, column], counts[column, row] = pair, pair.mT
    return counts
