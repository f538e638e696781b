"""Confusion counts against torchmetrics, macro IoU against hand-made sets."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from sfda_engine.judge.agreement import confusion_counts, macro_iou, pairwise_counts


def labels(*shape: int, seed: int = 0, classes: int = 5) -> torch.Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed)).byte()


def test_counts_are_those_of_each_frame() -> None:
    first, second = labels(3, 8, 6), labels(3, 8, 6, seed=1)
    counts = confusion_counts(first, second, 5)
    for frame in range(3):
        expected = multiclass_confusion_matrix(second[frame].long(), first[frame].long(), 5)
        assert torch.equal(counts[frame], expected)


def test_macro_iou_is_over_the_classes_that_either_labels() -> None:
    first = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2]])
    second = torch.tensor([[0, 0, 0, 0, 1, 3, 2, 2]])
    value = macro_iou(confusion_counts(first, second, 6)[0]).item()
    assert value == pytest.approx((1 + 1 / 2 + 1 + 0) / 4)
    assert macro_iou(confusion_counts(first, first, 6)[0]).item() == 1.0


def test_macro_iou_is_symmetric_and_takes_many_at_once() -> None:
    maps = labels(4, 3, 8, 6)
    counts = pairwise_counts(maps)
    agreement = macro_iou(counts.sum(2))
    assert agreement.shape == (4, 4)
    torch.testing.assert_close(agreement, agreement.T)
    torch.testing.assert_close(agreement.diagonal(), torch.ones(4, dtype=torch.float64))
    assert torch.equal(counts[2, 1, 0], confusion_counts(maps[2], maps[1], 5)[0].int())


def test_counts_of_pairs_have_the_classes_that_are_seen_alone() -> None:
    maps = labels(3, 2, 8, 6)
    sparse = torch.tensor([3, 40, 41, 149, 200])[maps.long()].byte()
    assert torch.equal(pairwise_counts(sparse), pairwise_counts(maps))


def test_nothing_labelled_is_no_agreement() -> None:
    assert macro_iou(torch.zeros(3, 3)).item() == 0.0
