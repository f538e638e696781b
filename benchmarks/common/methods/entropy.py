"""Shannon entropy of segmentation logits, which MinEnt, TENT, SHOT and label denoising share."""

from __future__ import annotations

from torch import Tensor

from sfda_engine.models.segmenter import upsample


def mean_entropy(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean entropy (nats, scalar) of the pixels of logits (B, K, h, w) upsampled to `size` (H, W)."""
    logs = upsample(logits.float(), size).log_softmax(1)
    return -(logs.exp() * logs).sum(1).mean()


def size_of(images: Tensor) -> tuple[int, int]:
    """(H, W) of a batch of images."""
    return images.shape[-2], images.shape[-1]
