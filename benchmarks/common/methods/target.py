"""What a method may know, and the pieces of the engine that all of them are built from.

A method is a generator: it gets the source network and a `Target`, moves the network, and yields it after every step.
No field of `Target` leads to source data or to a label, so a method cannot use either. Shapes: B batch, K classes,
H/W target size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler, PolynomialLR
from torch.utils.data import DataLoader, Dataset

from sfda_engine.data.images import ImageSize
from sfda_engine.data.loaders import TargetFrames, TrainingFrames, draw_loader, mix_seeds
from sfda_engine.data.readers import Images
from sfda_engine.distributed.optimizer_step import make_update
from sfda_engine.method.optimizers import BN_MOMENTUM
from sfda_engine.method.pseudo_labels import PseudoLabelled
from sfda_engine.method.steps import SelfTraining
from sfda_engine.method.warm_start import estimate_on_target
from sfda_engine.models.norms import batch_norm_statistics, set_momentum
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.segmenter import SegmenterOutput
from sfda_engine.models.weights import WeightsInfo

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Target:
    """Unlabelled frames of the target domain, and how they are drawn."""

    images: Images
    preprocess: Preprocess
    """On the accelerator's device; the same for every method."""
    info: WeightsInfo
    """Of the network: classes, normalization, exposure."""
    weights: str
    """The source network's file, for the engine's own description of what it adapts."""
    size: ImageSize
    """[width, height] in pixels that the network sees."""
    batch_size: int
    steps: int
    """Updates of the network."""
    seed: int
    accelerator: Accelerator
    num_workers: int = 0
    """Loader processes."""


Method = Callable[[nn.Module, Target], Iterator[nn.Module]]


def warm_start(network: nn.Module, target: Target) -> None:
    """The engine's BN warm start, and its momentum for what follows: where every descending method begins."""
    estimate_statistics(network, network, target, share=0.0)
    set_momentum(network, BN_MOMENTUM)
    network.to(memory_format=torch.channels_last)  # faster convolutions, as the engine's trainer has them


def estimate_statistics(network: nn.Module, source: nn.Module, target: Target, *, share: float) -> None:
    """BN warm start on these frames: into `network`, with a `share` of `source`'s statistics."""
    estimate_on_target(
        network,
        source,
        target.preprocess,
        target.images,
        size=target.size,
        batch_size=target.batch_size,
        seed=target.seed,
        device=target.accelerator.device,
        share=share,
    )


def frames(target: Target, start: int = 0, stop: int | None = None) -> Iterator[Tensor]:
    """Normalized batches (B, 3, H, W), mirrored at random, of steps `start` to `stop`: the engine's own draws."""
    seed = mix_seeds(target.seed, 2)
    dataset = TargetFrames(target.images, size=target.size, flip=True, seed=seed)
    for item in _batches(dataset, target, seed, start, target.steps if stop is None else stop):
        yield target.preprocess(item["image"]).contiguous(memory_format=torch.channels_last)


def labelled_frames(
    target: Target, labelled: PseudoLabelled, start: int, stop: int, *, zoom: float = 1.0
) -> Iterator[SelfTraining]:
    """Batches of frames with the labels that a method gave them, mirrored and enlarged by up to `zoom` at random."""
    seed = mix_seeds(target.seed, 4)
    dataset = TrainingFrames(labelled, size=target.size, scale=(1.0, zoom), flip=True, jitter=0.0, seed=seed)
    for batch in _batches(dataset, target, seed, start, stop):
        images = target.preprocess(batch["image"]).contiguous(memory_format=torch.channels_last)
        yield SelfTraining(images, batch["label"])


def _batches(dataset: Dataset, target: Target, seed: int, start: int, stop: int) -> DataLoader:
    loader = draw_loader(
        dataset,
        len(target.images),
        batch_size=target.batch_size,
        seed=seed,
        start=start,
        stop=stop,
        num_workers=target.num_workers,
    )
    return target.accelerator.prepare(loader)


def rounds(steps: int, count: int) -> list[tuple[int, int]]:
    """`steps` cut into `count` spans (start, stop) of equal length, give or take one; empty ones left out."""
    borders = [index * steps // count for index in range(count + 1)]
    return [(start, stop) for start, stop in itertools.pairwise(borders) if start < stop]


def forward(network: nn.Module, images: Tensor) -> SegmenterOutput:
    """A training pass as the engine makes it: statistics of the batch, written to the running ones; no dropout."""
    with batch_norm_statistics(network, "update"):
        return network(images)


def poly_sgd(network: nn.Module, target: Target, *, lr: float, weight_decay: float) -> tuple[SGD, PolynomialLR]:
    """SGD with momentum 0.9 and polynomial decay of power 0.9, as the segmentation methods here train."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = SGD(trained, lr=lr, momentum=0.9, weight_decay=weight_decay)
    return optimizer, PolynomialLR(optimizer, total_iters=target.steps, power=0.9)


def descend(
    network: nn.Module,
    target: Target,
    optimizer: Optimizer,
    schedule: LRScheduler,
    batches: Iterable[T],
    loss: Callable[[T], Tensor],
) -> Iterator[nn.Module]:
    """One update by `loss(batch)` for each batch; yields the network after each."""
    update = make_update(target.accelerator, optimizer)
    for batch in batches:
        with target.accelerator.autocast():
            value = loss(batch)
        update(value)
        schedule.step()
        yield network
