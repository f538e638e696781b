"""How good a segmenter is on target frames, as far as that can be told without a label: scores of one look at them.

None of them is the accuracy. Those that reward sure predictions are cheated by every method that descends on them;
`python -m benchmarks.label_free` measures which follow mIoU, and docs/label_free.md tells.

Shapes: B frames of a batch, N of the sample, K classes, H/W the size that the model sees, M sampled pixels.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional.classification import multiclass_confusion_matrix

from sfda_engine.data.frame_sample import spread
from sfda_engine.data.readers import Images
from sfda_engine.losses.bn_statistics import LayerStatistics, layer_distance, pool, record_statistics
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.segmenter import Size
from sfda_engine.views.augmented import VIEWS, batches, entropy, view_probabilities

SAMPLED_FRAMES = 32
SAMPLED_PIXELS = 64
"""Of each frame, for the pairwise similarities of `neighborhood_density`."""
TEMPERATURE = 0.05
GROUPS = {"mirrored": ("mirrored",), "scale": ("larger", "smaller"), "brightness": ("brighter", "darker")}
"""Views that are compared with the plain one, by what they change."""

HIGHER_IS_BETTER = {
    "entropy": False,
    "marginal_entropy": False,
    "mutual_information": False,
    "diversity": True,
    "class_share_entropy": True,
    "information_maximization": True,
    "neighborhood_density": True,
    "nuclear_norm": True,
    **{f"{measure}_{group}": True for measure in ("agreement", "iou") for group in GROUPS},
    "bns": False,
}
"""Which way each score is said to point; of a reference R: agreement_R and iou_R up, bns_R down."""


class Reference(NamedTuple):
    """A model that others are compared with, on the same frames in the same order."""

    labels: Tensor
    """(N, H, W) uint8, its arg-max."""
    statistics: list[tuple[Tensor, Tensor]]
    """Running mean and variance (C,) of its BatchNorm layers, in the order in which a pass meets them."""


class Look(NamedTuple):
    """What a model says of one batch of frames."""

    labels: dict[str, Tensor]
    """(B, H, W) int64 arg-max of each view, laid back over the frame."""
    plain: Tensor
    """(B, K, H, W) softmax of the frame itself."""
    marginal: Tensor
    """(B, K, H, W) mean softmax over the views."""
    view_entropy: float
    """Mean over views and pixels, in nats."""
    layers: list[LayerStatistics]
    """Of the pass over the frames themselves, by BatchNorm layer."""


def sample_frames(images: Images, count: int = SAMPLED_FRAMES) -> list[Image.Image]:
    """The fixed sample that models are scored on: `count` frames evenly spread, or all where there are fewer."""
    return [images.image(index) for index in spread(len(images), count)]


@torch.no_grad()
def refer(model: nn.Module, preprocess: Preprocess, frames: Sequence[Image.Image], size: Size) -> Reference:
    """Labels and BN statistics of a model in eval mode, for `score` to compare others with."""
    labels: list[Tensor] = []
    passes: list[list[LayerStatistics]] = []
    for batch in batches(frames, size):
        with record_statistics(model) as layers:
            _, plain = next(view_probabilities(model, preprocess, batch, size))
        labels.append(plain.argmax(1).to(torch.uint8))
        passes.append(layers)
    statistics = [(layer.running_mean.clone(), layer.running_variance.clone()) for layer in passes[0]]
    return Reference(torch.cat(labels), statistics)


@torch.no_grad()
def score(
    model: nn.Module,
    preprocess: Preprocess,
    frames: Sequence[Image.Image],
    size: Size,
    references: Mapping[str, Reference] | None = None,
) -> dict[str, float]:
    """Every score of a segmenter in eval mode, as it would ship, on RGB frames of any size, seen at `size` (w, h).

    One pass a view. Entropies and divergences in nats, agreements as shares of pixels (0 to 1), iou_* as `mean_iou`.
    """
    references = references or {}
    confusion: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=preprocess.mean.device))
    sums: dict[str, float] = defaultdict(float)
    predicted: list[Tensor] = []
    pixels: list[Tensor] = []
    passes: list[list[LayerStatistics]] = []
    done = 0
    for batch in batches(frames, size):
        look = look_at(model, preprocess, batch, size)
        classes, share = look.plain.shape[1], len(batch) / len(frames)
        for group, names in GROUPS.items():
            for name in names:
                confusion[group] = confusion[group] + counts(look.labels["plain"], look.labels[name], classes)
        for name, reference in references.items():
            theirs = reference.labels[done : done + len(batch)].long()
            confusion[name] = confusion[name] + counts(theirs, look.labels["plain"], classes)
        sums["entropy"] += share * entropy(look.plain).mean().item()
        sums["marginal_entropy"] += share * entropy(look.marginal).mean().item()
        sums["view_entropy"] += share * look.view_entropy
        predicted.append(share * look.plain.mean((0, 2, 3)))
        pixels.append(sample_pixels(look.plain))
        passes.append(look.layers)
        done += len(batch)
    mean, sample = torch.stack(predicted).sum(0), torch.cat(pixels)
    view_entropy = sums.pop("view_entropy")
    diversity = entropy(mean[None]).item()
    won = next(iter(confusion.values())).sum(1)
    layers = [pool(list(same)) for same in zip(*passes, strict=True)]
    return {
        **sums,
        "mutual_information": sums["marginal_entropy"] - view_entropy,
        "diversity": diversity,
        "class_share_entropy": entropy((won / won.sum())[None]).item(),
        "information_maximization": diversity - sums["entropy"],
        "neighborhood_density": neighborhood_density(sample),
        "nuclear_norm": nuclear_norm(sample),
        **{f"agreement_{name}": agreement(table) for name, table in confusion.items()},
        **{f"iou_{name}": mean_iou(table) for name, table in confusion.items()},
        "bns": distance(layers),
        **{f"bns_{name}": distance(layers, reference.statistics) for name, reference in references.items()},
    }


def look_at(model: nn.Module, preprocess: Preprocess, frames: Sequence[Image.Image], size: Size) -> Look:
    """One pass a view over a batch of frames."""
    maps = view_probabilities(model, preprocess, frames, size)
    with record_statistics(model) as layers:
        name, plain = next(maps)
    labels = {name: plain.argmax(1)}
    marginal, view_entropy = plain.clone(), entropy(plain).mean()
    for name, probabilities in maps:
        labels[name] = probabilities.argmax(1)
        marginal += probabilities
        view_entropy += entropy(probabilities).mean()
    return Look(labels, plain, marginal / len(VIEWS), view_entropy.item() / len(VIEWS), layers)


def counts(labels: Tensor, others: Tensor, classes: int) -> Tensor:
    """Confusion counts (K, K) int64 of two label maps of one shape, the first by row."""
    return multiclass_confusion_matrix(others, labels, classes, validate_args=False)


def agreement(confusion: Tensor) -> float:
    """Share of pixels (0 to 1) that both label alike, from confusion counts (K, K)."""
    return (confusion.diag().sum() / confusion.sum()).item()


def mean_iou(confusion: Tensor) -> float:
    """Mean IoU (0 to 1) over the classes that the first labels, so that a rare class counts as much as the road."""
    hits, own, other = confusion.diag().double(), confusion.sum(1).double(), confusion.sum(0).double()
    return (hits / (own + other - hits).clamp_min(1))[own > 0].mean().item()


def sample_pixels(maps: Tensor) -> Tensor:
    """SAMPLED_PIXELS of each map (B, K, H, W), evenly spaced: (B * SAMPLED_PIXELS, K), or all where there are fewer."""
    flat = maps.flatten(2)
    chosen = torch.linspace(0, flat.shape[2] - 1, min(SAMPLED_PIXELS, flat.shape[2])).round().long()
    return flat[:, :, chosen.to(flat.device)].transpose(1, 2).flatten(0, 1)


def neighborhood_density(probabilities: Tensor) -> float:
    """Soft neighborhood density of predictions (M, K): mean entropy (nats) of each pixel's similarities to the others.

    Saito et al., "Tune it the right way", ICCV 2021: cosine of the softmax outputs over TEMPERATURE, softmax over all
    pixels but itself. High where target pixels lie in dense neighborhoods of each other.
    """
    points = functional.normalize(probabilities.float(), dim=1)
    similarity = points @ points.T / TEMPERATURE
    similarity.fill_diagonal_(-torch.inf)
    return entropy(similarity.softmax(1)).mean().item()


def nuclear_norm(probabilities: Tensor) -> float:
    """Nuclear norm of predictions (M, K) over sqrt(M min(M, K)), its maximum: all sure, classes balanced.

    Batch nuclear-norm maximization (Cui et al., "Towards discriminability and diversity", CVPR 2020) descends on it.
    """
    if not probabilities.isfinite().all():
        return math.nan  # the decomposition would raise
    rows, columns = probabilities.shape
    return (torch.linalg.matrix_norm(probabilities.float(), "nuc") / (rows * min(rows, columns)) ** 0.5).item()


def distance(layers: list[LayerStatistics], other: list[tuple[Tensor, Tensor]] | None = None) -> float:
    """Mean `layer_distance` of the frames' statistics from the model's own running ones, or from those of `other`."""
    if other is not None:
        layers = [
            layer._replace(running_mean=mean, running_variance=variance)
            for layer, (mean, variance) in zip(layers, other, strict=True)
        ]
    return torch.stack([layer_distance(layer) for layer in layers]).mean().item()
