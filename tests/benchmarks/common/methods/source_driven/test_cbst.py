"""CBST beside the source: its rounds, and its first step by hand."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch

from benchmarks.common.methods.cbst import self_labelled
from benchmarks.common.methods.labelling import class_thresholds, probabilities
from benchmarks.common.methods.run import adapt
from benchmarks.common.methods.source_driven.cbst import decay, source_cbst
from benchmarks.common.methods.source_driven.source import LabelledSource, source_frames
from benchmarks.common.methods.target import warm_start
from tests.benchmarks.common.methods.source_driven.conftest import Opened, Step, assert_same, cross_entropy, enlarge

SETTINGS = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}


def test_the_learning_rate_is_constant_in_a_round_and_falls_by_the_root_of_two() -> None:
    spans = [(0, 3), (3, 6), (6, 9)]
    root = 2**-0.5
    expected = [1, 1, 1, root, root, root, 0.5, 0.5, 0.5, root / 2]
    assert [decay(step, spans) for step in range(10)] == pytest.approx(expected)


def test_labels_are_balanced_over_classes(opened: Opened) -> None:
    network, target = opened(steps=6)
    warm_start(network, target)
    thresholds = class_thresholds(network, target, 0.2)
    maps = torch.cat(list(probabilities(network, target)))
    quotients = maps / thresholds.view(1, -1, 1, 1)
    expected = quotients.argmax(1).where(quotients.amax(1) >= 1, torch.full((), 255))
    for share, label in zip(expected.flatten().bincount(minlength=9)[:9] / expected.numel(), thresholds, strict=True):
        assert (share > 0) == (label < 1)  # the surest fifth of each class that is predicted at all, however rare
    batches = list(self_labelled(network, target))
    assert len(batches) == 6
    known = torch.cat([batch.labels for batch in batches[:2]]).flatten().bincount(minlength=256)
    assert set(known.nonzero().flatten().tolist()) <= {*range(9), 255}
    assert known[:9].count_nonzero() > 3


def test_the_first_step_descends_on_both_kinds_of_labels(
    opened: Opened, frames_of_source: LabelledSource, taken: list[Step]
) -> None:
    source, target = opened(steps=1)
    adapt(partial(source_cbst, labelled=frames_of_source), source, target, limit=1000)
    network = copy.deepcopy(source)
    warm_start(network, target)
    batches = [next(source_frames(target, frames_of_source)), next(self_labelled(network, target))]
    assert (batches[1].labels != 255).any()
    network.train()
    loss = torch.zeros(())
    for batch in batches:
        loss = loss + cross_entropy(enlarge(network(batch.images).logits, batch.images), batch.labels)
    (step,) = taken
    (settings,), (gradients,) = step.settings, step.gradients
    assert {key: settings[key] for key in SETTINGS} == SETTINGS
    assert_same(gradients, loss, network.parameters())
