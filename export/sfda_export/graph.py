"""What is exported: uint8 RGB frames in; exposure, normalization, network, upsampling and read-out inside.

Preprocessing and upsampling are the engine's own modules, so training and vehicle cannot drift apart.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sfda_engine.models.preprocess import Exposure, Normalization, Preprocess
from sfda_engine.models.segmenter import upsample
from sfda_export.unpool import deployable
from sfda_runtime.card import IGNORE, Graph

OUTPUTS: dict[Graph, tuple[str, ...]] = {
    "labels": ("labels",),
    "diagnostics": ("labels", "confidence", "entropy"),
    "logits": ("labels", "logits"),
}


class Diagnostics(NamedTuple):
    """uint8 (N, H, W) each."""

    labels: Tensor
    """Train ids; 255 in a frame whose logits are not finite."""
    confidence: Tensor
    """round(255 * largest softmax probability); 0 in such a frame."""
    entropy: Tensor
    """round(255 * entropy / ln K); 255 in such a frame."""


class DeployGraph(nn.Module):
    """forward: frames uint8 (N, H, W, 3) RGB -> the tuple of outputs that OUTPUTS names for `graph`.

    labels, confidence and entropy as in `Diagnostics`; logits float32 (N, K, H, W). In eval mode from the start.
    """

    def __init__(self, segmenter: nn.Module, normalization: Normalization, exposure: Exposure, graph: Graph) -> None:
        super().__init__()
        self.segmenter = deployable(segmenter)
        self.preprocess = Preprocess(normalization, exposure)
        self.graph = graph
        self.eval()

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        head = self.segmenter(self.preprocess(to_images(frames))).logits
        logits = upsample(head, (frames.shape[1], frames.shape[2]))
        if self.graph == "diagnostics":
            return tuple(read_diagnostics(head, logits))
        labels = read_labels(head, logits)
        return (labels, logits) if self.graph == "logits" else (labels,)


def to_images(frames: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) -> float32 (N, 3, H, W) in [0, 1], as the engine's loaders scale them."""
    return frames.permute(0, 3, 1, 2).to(torch.float32) * (1.0 / 255.0)


def finite_frames(head: Tensor) -> Tensor:
    """(N, 1, 1) bool: whether every logit of a frame is finite; x - x is NaN for NaN and for infinity."""
    return ((head - head).sum((1, 2, 3)) == 0)[:, None, None]


def read_labels(head: Tensor, logits: Tensor) -> Tensor:
    """Labels uint8 (N, H, W) of upsampled `logits` (N, K, H, W); 255 where `head` (N, K, h, w) is not finite.

    Without the test an argmax over NaN would be class 0, which is "road" in most class sets.
    """
    return torch.where(finite_frames(head), logits.argmax(1).to(torch.uint8), IGNORE).to(torch.uint8)


def read_diagnostics(head: Tensor, logits: Tensor) -> Diagnostics:
    """Labels, confidence and entropy of upsampled `logits` (N, K, H, W); `head` as for `read_labels`.

    Softmax and entropy by hand: H = ln z - sum(e * d) / z with d = logits - max, e = exp(d), z = sum(e). It takes
    half the time of onnxruntime's LogSoftmax over an axis that is not the last one.
    """
    finite = finite_frames(head)
    shifted = logits - logits.amax(1, keepdim=True)
    exponentials = shifted.exp()
    z = exponentials.sum(1)
    entropy = (z.log() - (exponentials * shifted).sum(1) / z) / math.log(logits.shape[1])
    return Diagnostics(
        labels=read_labels(head, logits),
        confidence=_levels(torch.where(finite, 1.0 / z, 0.0)),
        entropy=_levels(torch.where(finite, entropy, 1.0)),
    )


def _levels(share: Tensor) -> Tensor:
    return (share.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
