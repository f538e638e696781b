"""Source batches and their cross-entropy, and the first step of each simple method, by hand."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from benchmarks.common.methods.run import adapt
from benchmarks.common.methods.source_driven import SOURCE_DRIVEN
from benchmarks.common.methods.source_driven.source import LabelledSource, source_frames, source_loss
from benchmarks.common.methods.target import frames, warm_start
from sfda_engine.data.images import ImageSize
from sfda_engine.data.loaders import Draws, TrainingFrames, mix_seeds
from tests.benchmarks.common.methods.source_driven.conftest import Opened, Step, assert_same, cross_entropy, enlarge

SETTINGS = {"lr": 2.5e-4, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": False}


@pytest.mark.parametrize(
    ("augment", "zoom", "jitter"), [(True, 1.5, 0.15), (False, 1.0, 0.0)], ids=["the demo's", "the paper's"]
)
def test_a_batch_is_what_train_source_would_have(
    augment: bool, zoom: float, jitter: float, opened: Opened, labelled: LabelledSource
) -> None:
    """The recipe says whether frames are augmented: `gta5_source` has neither zoom nor jitter."""
    _, target = opened(steps=3, seed=4)
    labelled = labelled._replace(recipe=dataclasses.replace(labelled.recipe, augment=augment))
    batches = list(source_frames(target, labelled))
    seed = mix_seeds(4, 5)
    dataset = TrainingFrames(
        labelled.frames, size=ImageSize(32, 32), seed=seed, scale=(1.0, zoom), flip=True, jitter=jitter
    )
    drawn = [dataset[key] for key in Draws(4, seed=seed, start=0, stop=6)]
    assert len(batches) == 3
    assert torch.equal(torch.cat([batch.labels for batch in batches]), torch.stack([item["label"] for item in drawn]))
    images = target.preprocess(torch.stack([item["image"] for item in drawn]))
    torch.testing.assert_close(torch.cat([batch.images for batch in batches]), images, rtol=1e-4, atol=1e-4)


def test_source_loss_is_the_mean_over_labelled_pixels_and_writes_no_statistics(
    opened: Opened, labelled: LabelledSource
) -> None:
    network, target = opened()
    batch = next(source_frames(target, labelled))
    batch.labels[:, :7] = 255
    before = {name: value.clone() for name, value in network.named_buffers()}
    loss = source_loss(network, batch).item()
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    logits = enlarge(copy.deepcopy(network).train()(batch.images).logits, batch.images)
    assert loss == pytest.approx(cross_entropy(logits, batch.labels).item(), rel=1e-4)
    assert source_loss(network, batch._replace(labels=torch.full_like(batch.labels, 255))).item() == 0


def entropy(p: Tensor) -> Tensor:
    return -0.001 * (p * p.log()).sum(1).mean() / math.log(p.shape[1])


def squares(p: Tensor) -> Tensor:
    return -0.1 * p.square().mean() / 2


def weighted_squares(p: Tensor) -> Tensor:
    total = torch.zeros(())
    for image in p:
        labels = image.argmax(0)
        for index in labels.unique():
            own = labels == index
            total = total + image.square().sum(0)[own].sum() / (own.sum() ** 0.2 * labels.numel() ** 0.8)
    return -0.1 * total / (p.shape[0] * p.shape[1])


@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("source_min_entropy", entropy),
        ("source_max_square", squares),
        ("source_max_square_iw", weighted_squares),
    ],
)
def test_the_first_step_descends_on_both_terms(
    name: str,
    term: Callable[[Tensor], Tensor],
    opened: Opened,
    frames_of_source: LabelledSource,
    taken: list[Step],
) -> None:
    source, target = opened(steps=1)
    bound = partial(SOURCE_DRIVEN[name], labelled=frames_of_source)
    after = adapt(bound, source, target, limit=1000).snapshots[1]

    network = copy.deepcopy(source)
    warm_start(network, target)
    network.train()
    batch, images = next(source_frames(target, frames_of_source)), next(frames(target))
    loss = term(enlarge(network(images).logits, images).softmax(1))
    statistics = {key: value.clone() for key, value in network.named_buffers()}  # written by the target's pass alone
    loss = loss + cross_entropy(enlarge(network(batch.images).logits, images), batch.labels)
    (step,) = taken
    assert step.kind == "SGD"
    (settings,), (gradients,) = step.settings, step.gradients
    assert {key: settings[key] for key in SETTINGS} == SETTINGS
    assert_same(gradients, loss, network.parameters())
    for key, value in statistics.items():
        torch.testing.assert_close(after[key], value, rtol=1e-4, atol=1e-6)
