"""Labels that a network gives to the target frames: what CBST, label denoising and SHOT train on between rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.common.methods.target import Target
from sfda_engine.data.images import ImageSize, resize, to_float_tensor
from sfda_engine.method.pseudo_labels import PseudoLabelled
from sfda_engine.models.norms import batch_norm_statistics
from sfda_engine.models.segmenter import SegmenterOutput, upsample

SAMPLED = 4
"""Thresholds are taken from every fourth row and column, to hold the confidences of a data set in memory."""


@torch.no_grad()
def outputs(network: nn.Module, target: Target) -> Iterator[SegmenterOutput]:
    """The network's output on all frames in order, a batch at a time, as deployed: running statistics, no mirroring."""
    count = len(target.images)
    for first in range(0, count, target.batch_size):
        frames = [target.images.image(index) for index in range(first, min(first + target.batch_size, count))]
        images = torch.stack([to_float_tensor(resize(frame, target.size)) for frame in frames])
        with batch_norm_statistics(network, "running"):
            yield network(target.preprocess(images.to(target.accelerator.device)))


def probabilities(network: nn.Module, target: Target) -> Iterator[Tensor]:
    """Softmax of `outputs`, (B, K, H, W) at the target's size."""
    width, height = target.size
    for output in outputs(network, target):
        yield upsample(output.logits.float(), (height, width)).softmax(1)


def class_thresholds(network: nn.Module, target: Target, portion: float) -> Tensor:
    """(K,) confidence that the surest `portion` (0..1) of the pixels predicted as each class reach.

    1 for a class of which that portion is not even one pixel.
    """
    confidences, labels = [], []
    for maps in probabilities(network, target):
        confidence, label = maps[..., ::SAMPLED, ::SAMPLED].max(1)
        confidences.append(confidence.flatten())
        labels.append(label.flatten())
    confidence, label = torch.cat(confidences), torch.cat(labels)
    thresholds = torch.ones(target.info.num_classes, device=confidence.device)
    for index in range(len(thresholds)):
        own = confidence[label == index]
        if kept := int(portion * len(own)):
            thresholds[index] = own.topk(kept).values[-1]
    return thresholds


def label_frames(network: nn.Module, target: Target, rule: Callable[[Tensor], Tensor]) -> PseudoLabelled:
    """Every frame labelled by `rule`, from probabilities (B, K, H, W) to labels (B, H, W) int64, 255 ignored."""
    return as_labelled(target, (rule(maps) for maps in probabilities(network, target)))


def as_labelled(target: Target, batches: Iterator[Tensor]) -> PseudoLabelled:
    """The frames with labels (B, h, w) int64 of any size, given in the frames' order."""
    labels = [Image.fromarray(label.cpu().numpy().astype(np.uint8)) for batch in batches for label in batch]
    sizes = [ImageSize(*target.images.image(index).size) for index in range(len(target.images))]
    return PseudoLabelled(target.images, labels, sizes)
