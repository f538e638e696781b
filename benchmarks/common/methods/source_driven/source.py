"""Labelled source frames and the cross-entropy on them, which every source-driven method adds to its target term."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.common.methods.cbst import labelled_loss
from benchmarks.common.methods.entropy import size_of
from benchmarks.common.methods.target import Target, descend, forward, frames, poly_sgd, warm_start
from sfda_engine.config.schema import SourceConfig
from sfda_engine.data.loaders import TrainingFrames, draw_loader, mix_seeds
from sfda_engine.data.readers import LabelledImages
from sfda_engine.models.norms import batch_norm_statistics
from sfda_engine.models.segmenter import SegmenterOutput
from sfda_engine.pipelines.source_training import JITTER, ZOOM


class LabelledSource(NamedTuple):
    """Labelled source frames, and the recipe that says whether they are augmented."""

    frames: LabelledImages
    recipe: SourceConfig


SourceMethod = Callable[[nn.Module, Target, LabelledSource], Iterator[nn.Module]]


class SourceBatch(NamedTuple):
    """Augmented source frames (B, 3, H, W), normalized, with their labels (B, H, W) int64, 255 ignored."""

    images: Tensor
    labels: Tensor


def source_frames(target: Target, labelled: LabelledSource) -> Iterator[SourceBatch]:
    """A batch of source frames for every step, of the target's size and number, augmented as `train_source` does."""
    seed = mix_seeds(target.seed, 5)
    recipe = labelled.recipe
    dataset = TrainingFrames(
        labelled.frames,
        size=target.size,
        scale=(1.0, ZOOM if recipe.augment else 1.0),
        flip=True,
        jitter=JITTER if recipe.augment else 0.0,
        seed=seed,
    )
    loader = draw_loader(
        dataset,
        len(labelled.frames),
        batch_size=target.batch_size,
        seed=seed,
        start=0,
        stop=target.steps,
        num_workers=target.num_workers,
    )
    for batch in target.accelerator.prepare(loader):
        images = target.preprocess(batch["image"]).contiguous(memory_format=torch.channels_last)
        yield SourceBatch(images, batch["label"])


def source_forward(network: nn.Module, images: Tensor) -> SegmenterOutput:
    """A training pass of source frames: statistics of the batch, the running ones untouched; no dropout."""
    with batch_norm_statistics(network, "batch"):
        return network(images)


def source_loss(network: nn.Module, batch: SourceBatch) -> Tensor:
    """Mean cross-entropy of the upsampled source predictions, as `train_source` has it."""
    return labelled_loss(source_forward(network, batch.images).logits, batch.labels)


def descend_beside_source(
    network: nn.Module,
    target: Target,
    labelled: LabelledSource,
    term: Callable[[Tensor, tuple[int, int]], Tensor],
) -> Iterator[nn.Module]:
    """All weights descend on cross-entropy + `term` of target logits and size (H, W); MinEnt's and MaxSquare's SGD."""
    warm_start(network, target)
    optimizer, schedule = poly_sgd(network, target, lr=2.5e-4, weight_decay=5e-4)
    batches = zip(source_frames(target, labelled), frames(target), strict=True)

    def loss(batch: tuple[SourceBatch, Tensor]) -> Tensor:
        source, images = batch
        return source_loss(network, source) + term(forward(network, images).logits, size_of(images))

    yield from descend(network, target, optimizer, schedule, batches, loss)
