"""Every loss and labelling rule against float64 loops or a closed form."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common.methods.cbst import balanced_labels, labelled_loss
from benchmarks.common.methods.entropy import mean_entropy
from benchmarks.common.methods.label_denoising import decay, negative_loss, negative_rank, positive_labels
from benchmarks.common.methods.max_square import image_weighted_loss, plain_loss
from benchmarks.common.methods.min_entropy import entropy_loss
from benchmarks.common.methods.shot import centroid_labels, information_loss
from benchmarks.common.methods.target import rounds

SIZE = (6, 5)
CLASSES = 7


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(2, CLASSES, *SIZE, generator=torch.Generator().manual_seed(1))


def pixels(logits: Tensor) -> NDArray[np.float64]:
    """Softmax as (B, H W, K) float64; the size asked for is the logits' own, so nothing is upsampled."""
    values = logits.detach().double().numpy().transpose(0, 2, 3, 1).reshape(len(logits), -1, CLASSES)
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def entropy_of(p: NDArray[np.float64]) -> float:
    return float(-sum(share * math.log(share) for share in p))


def test_entropy_is_the_mean_over_pixels(logits: Tensor) -> None:
    expected = np.mean([entropy_of(p) for image in pixels(logits) for p in image])
    assert mean_entropy(logits, SIZE).item() == pytest.approx(expected, rel=1e-5)
    assert entropy_loss(logits, SIZE).item() == pytest.approx(expected / math.log(CLASSES), rel=1e-5)


def test_entropy_of_a_uniform_prediction_is_one_whatever_the_size() -> None:
    assert entropy_loss(torch.zeros(1, 5, 2, 2), (8, 8)).item() == pytest.approx(1.0)


def test_plain_max_square_is_a_mean_over_pixels_and_classes(logits: Tensor) -> None:
    assert plain_loss(logits, SIZE).item() == pytest.approx(-0.5 * np.mean(pixels(logits) ** 2), rel=1e-5)


def test_plain_max_square_has_its_closed_gradient(logits: Tensor) -> None:
    logits.requires_grad_(True)
    plain_loss(logits, SIZE).backward()
    p = pixels(logits)
    expected = -p * (p - (p**2).sum(-1, keepdims=True)) / p.size
    assert logits.grad is not None
    own = logits.grad.double().numpy().transpose(0, 2, 3, 1).reshape(expected.shape)
    np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-9)


def test_image_weighted_max_square_is_the_published_sum(logits: Tensor) -> None:
    total = 0.0
    for image in pixels(logits):
        labels = image.argmax(-1)
        for p, label in zip(image, labels, strict=True):
            count = int((labels == label).sum())
            total += (p**2).sum() / max(count**0.2 * len(labels) ** 0.8, 1)
    assert image_weighted_loss(logits, SIZE).item() == pytest.approx(-total / (len(logits) * CLASSES), rel=1e-5)


def test_information_loss_is_entropy_minus_diversity(logits: Tensor) -> None:
    p = pixels(logits).reshape(-1, CLASSES)
    mean = p.mean(0)
    expected = np.mean([entropy_of(one) for one in p]) + sum(share * math.log(share + 1e-5) for share in mean)
    assert information_loss(logits, SIZE).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_negative_loss_denies_the_class_of_that_rank(logits: Tensor, rank: int) -> None:
    denied = [sorted(p, reverse=True)[rank - 1] for image in pixels(logits) for p in image]
    expected = -np.mean([math.log(max(1 - p, 1e-5)) for p in denied])
    assert negative_loss(logits, rank).item() == pytest.approx(expected, rel=1e-4)


def test_negative_rank_is_that_of_the_code_at_19_classes_and_never_the_label_itself() -> None:
    dice = Random(0)
    assert {negative_rank(19, dice) for _ in range(200)} == set(range(6, 13))
    assert {negative_rank(9, dice) for _ in range(200)} == {3, 4, 5}
    assert {negative_rank(2, dice) for _ in range(50)} == {2}


def test_cross_entropy_skips_unlabelled_pixels(logits: Tensor) -> None:
    labels = torch.randint(0, CLASSES, (2, *SIZE), generator=torch.Generator().manual_seed(2))
    labels[:, :2] = 255
    flat = labels.flatten(1).numpy()
    chosen = [
        p[y] for image, ys in zip(pixels(logits), flat, strict=True) for p, y in zip(image, ys, strict=True) if y != 255
    ]
    assert labelled_loss(logits, labels).item() == pytest.approx(-np.mean(np.log(chosen)), rel=1e-5)
    assert labelled_loss(logits, torch.full_like(labels, 255)).item() == 0


def test_balanced_labels_compare_quotients_not_probabilities() -> None:
    maps = torch.tensor([[0.6, 0.4], [0.55, 0.45], [0.5, 0.5]]).T.view(1, 2, 1, 3)
    thresholds = torch.tensor([0.58, 0.44])
    # 0.6/0.58 over 0.4/0.44; 0.55/0.58 under 1, 0.45/0.44 above; 0.5/0.44
    assert balanced_labels(maps, thresholds).flatten().tolist() == [0, 1, 1]
    assert balanced_labels(maps, torch.ones(2)).flatten().tolist() == [255, 255, 255]


def test_positive_labels_take_either_threshold() -> None:
    maps = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.52, 0.48]]).T.view(1, 2, 2, 2)
    none = torch.ones(2)
    # the surest half of four is the first two, and the code keeps what lies above the last of them
    assert positive_labels(maps, none, 0.5).flatten().tolist() == [0, 255, 255, 255]
    # the second class passes its own threshold on the last two pixels; the label is still the likeliest class
    assert positive_labels(maps, torch.tensor([1.0, 0.39]), 0.25).flatten().tolist() == [255, 255, 0, 0]


def test_centroids_are_those_of_two_rounds() -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(60, 4, generator=generator)
    probabilities = (2 * torch.randn(60, 3, generator=generator)).softmax(1)
    points = np.concatenate([features.double().numpy(), np.ones((60, 1))], 1)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    weights = probabilities.double().numpy()
    for _ in range(2):
        centers = [
            sum(w * x for w, x in zip(weights[:, k], points, strict=True)) / weights[:, k].sum() for k in range(3)
        ]
        distance = [[1 - x @ c / np.linalg.norm(c) for c in centers] for x in points]
        labels = np.argmin(distance, 1)
        weights = np.eye(3)[labels]
    assert centroid_labels(features, probabilities).tolist() == labels.tolist()
    assert len(set(labels.tolist())) == 3


def test_a_class_without_pixels_gets_none() -> None:
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(4))
    probabilities = torch.tensor([0.5, 0.3, 0.2]).repeat(20, 1)
    assert set(centroid_labels(features, probabilities).tolist()) == {0}


def test_rounds_cover_every_step_once() -> None:
    assert rounds(80, 6) == [(0, 13), (13, 26), (26, 40), (40, 53), (53, 66), (66, 80)]
    assert rounds(2, 6) == [(0, 1), (1, 2)]


def test_learning_rate_of_label_denoising() -> None:
    spans = [(0, 10), (10, 20)]
    assert decay(0, spans) == 1
    assert decay(5, spans) == pytest.approx(0.5**0.9)
    assert decay(10, spans) == pytest.approx(0.5**0.5)
    assert decay(15, spans) == pytest.approx(0.5**0.5 * 0.5**0.9)
    assert decay(20, spans) == 0
