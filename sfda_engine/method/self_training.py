"""Batches of pseudo-labelled target frames, augmented as source training augments its own, and mixed by class."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import nn

from sfda_engine.data.class_mix import class_mix
from sfda_engine.data.images import ImageSize
from sfda_engine.data.loaders import TrainingFrames, draw_loader, mix_seeds
from sfda_engine.distributed.collectives import gather, own_share
from sfda_engine.method.pseudo_labels import PseudoLabelled
from sfda_engine.method.steps import SelfTraining

JITTER = 0.2
CLASS_MIX_SHARE = 0.5


def self_training_batches(
    accelerator: Accelerator,
    preprocess: nn.Module,
    frames: PseudoLabelled,
    *,
    size: ImageSize,
    crop: ImageSize | None,
    zoom: float,
    batch_size: int,
    num_workers: int,
    seed: int,
    start: int,
    stop: int,
) -> Iterator[SelfTraining]:
    """The batches of draws `start` to `stop`, a function of the seed alone: random zoom, flip, color jitter, and every
    other batch mixed by class. A plain student learns little from labels that its own like has made; a student that
    sees the frames harder than the teacher did learns more (FixMatch, Sohn et al. 2020)."""
    seed = mix_seeds(seed, 4)
    augmented = TrainingFrames(
        frames,
        size=size,
        scale=(1.0, zoom),
        flip=True,
        jitter=JITTER,
        seed=seed,
        crop=crop,
    )
    loader = accelerator.prepare(
        draw_loader(
            augmented,
            len(frames),
            batch_size=batch_size,
            seed=seed,
            start=start,
            stop=stop,
            num_workers=num_workers,
        )
    )
    for draw, batch in enumerate(loader, start):
        images, labels = preprocess(batch["image"]), batch["label"]
        generator = torch.Generator().manual_seed(mix_seeds(seed, 2, draw, 0))  # the same on all processes
        if torch.rand((), generator=generator) < CLASS_MIX_SHARE:
            mixed = class_mix(gather(images), gather(labels), generator)
            images, labels = (own_share(part) for part in mixed)
        yield SelfTraining(images.contiguous(memory_format=torch.channels_last), labels)
