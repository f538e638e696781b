"""SHOT (Liang, Hu, Feng, "Do we really need to access the source data?", ICML 2020), a pixel for an image.

The classifier is frozen and everything before it learns by information maximization (entropy of each prediction minus
entropy of their mean) plus 0.3 times cross-entropy on labels by nearest class centroid in feature space, renewed 15
times over the run. Settings of github.com/tim-learn/SHOT, object/image_target.py: SGD, Nesterov momentum 0.9, weight
decay 1e-3, learning rate 1e-2 x 0.1 for the backbone, times (1 + 10 t)^-0.75 at share t of the run; two rounds of
centroids, the first weighted by probabilities; cosine distance, a 1 appended to the features.

Differs from the paper, which classifies images: the mean prediction is over all pixels of the batch; features are the
segmenter's encoder features, labels have their grid, and the layers between them and the classifier learn at the
backbone's rate (1e-2 for the bottleneck there); no weight normalization and no smoothed labels in the source training.
Features of all frames are held in memory, as they are there.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.common.methods.cbst import labelled_loss
from benchmarks.common.methods.entropy import mean_entropy, size_of
from benchmarks.common.methods.labelling import as_labelled, outputs
from benchmarks.common.methods.target import Target, descend, forward, labelled_frames, rounds, warm_start
from sfda_engine.method.pseudo_labels import PseudoLabelled
from sfda_engine.method.steps import SelfTraining
from sfda_engine.models.segmenter import upsample

RENEWALS = 15
LABEL_WEIGHT = 0.3
EPSILON = 1e-5


def information_loss(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean entropy of the pixels minus entropy of their mean prediction; logits (B, K, h, w) upsampled to `size`."""
    mean = upsample(logits.float(), size).softmax(1).mean((0, 2, 3))
    return mean_entropy(logits, size) + (mean * (mean + EPSILON).log()).sum()


def centroid_labels(features: Tensor, probabilities: Tensor) -> Tensor:
    """Class (N,) of the nearest centroid by cosine, features (N, C), probabilities (N, K); two rounds.

    A class that no pixel was given in the round before has no centroid.
    """
    points = functional.normalize(functional.pad(features, (0, 1), value=1.0), dim=1)
    weights, labels = probabilities, probabilities.argmax(1)
    for _ in range(2):
        centroids = weights.T @ points / (weights.sum(0)[:, None] + 1e-8)
        similarity = points @ functional.normalize(centroids, dim=1).T
        absent = labels.bincount(minlength=weights.shape[1]) == 0
        labels = similarity.masked_fill(absent, -torch.inf).argmax(1)
        weights = functional.one_hot(labels, weights.shape[1]).to(points.dtype)
    return labels


def freeze_classifier(network: nn.Module, classes: int) -> None:
    """Freeze the convolutions that put out one channel a class: the hypothesis, which SHOT transfers."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == classes:
            module.requires_grad_(False)


def label_by_centroids(network: nn.Module, target: Target) -> PseudoLabelled:
    """Every frame labelled on the grid of its encoder features."""
    features, probabilities = [], []
    for output in outputs(network, target):
        height, width = output.features.shape[-2:]
        features.append(output.features.float().permute(0, 2, 3, 1))
        probabilities.append(upsample(output.logits.float(), (height, width)).softmax(1).permute(0, 2, 3, 1))
    grid = torch.cat(features)  # (frames, h', w', C)
    labels = centroid_labels(grid.flatten(0, 2), torch.cat(probabilities).flatten(0, 2))
    return as_labelled(target, iter([labels.view(grid.shape[:3])]))


def shot(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """Labels by centroids, renewed between spans of descent."""
    warm_start(network, target)
    freeze_classifier(network, target.info.num_classes)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = SGD(trained, lr=1e-3, momentum=0.9, weight_decay=1e-3, nesterov=True)
    # its code sets the rate of step t before that step, counted from 1
    schedule = LambdaLR(optimizer, lambda step: (1 + 10 * (step + 1) / target.steps) ** -0.75)

    def batches() -> Iterator[SelfTraining]:
        for start, stop in rounds(target.steps, RENEWALS):
            yield from labelled_frames(target, label_by_centroids(network, target), start, stop)

    def loss(batch: SelfTraining) -> Tensor:
        logits = forward(network, batch.images).logits
        return information_loss(logits, size_of(batch.images)) + LABEL_WEIGHT * labelled_loss(logits, batch.labels)

    yield from descend(network, target, optimizer, schedule, batches(), loss)
