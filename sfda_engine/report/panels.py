"""What people look at: predictions, entropy, easy and hard patches on target frames, and synthetic images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import sfda_kernels
from sfda_engine.data.frame_sample import spread
from sfda_engine.data.images import ImageSize, resize, to_float_tensor
from sfda_engine.data.readers import Images, LabelledImages
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.segmenter import upsample
from sfda_engine.models.weights import WeightsInfo
from sfda_engine.report.figures import save_frame, save_synthetic

FRAMES = 6


def as_uint8(images: Tensor) -> np.ndarray:
    """Float images (B, 3, H, W) in [0, 1] -> uint8 (B, H, W, 3)."""
    return images.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def save_panels(
    folder: Path,
    target: Images,
    labelled: LabelledImages | None,
    size: ImageSize,
    grid: int,
    source: nn.Module,
    source_info: WeightsInfo,
    adapted: nn.Module,
    adapted_info: WeightsInfo,
) -> None:
    """Write strips of FRAMES frames at `size` (width, height): the labelled where there are any, else the target's.

    Patches, `grid` x `grid`, are ranked within the strip's own frames, spread evenly over the data set.
    """
    frames = target if labelled is None else labelled
    chosen = spread(len(frames), FRAMES)
    device = next(adapted.parameters()).device
    images = torch.stack([to_float_tensor(resize(frames.image(i), size)) for i in chosen]).to(device)
    # a frame at a time: six of 2048x1024 at once would be the largest pass of the whole run
    logits = _logits(adapted, Preprocess(adapted_info.normalization, adapted_info.exposure), images)
    theirs = _logits(source, Preprocess(source_info.normalization, source_info.exposure), images)
    rank = sfda_kernels.patch_entropy(logits, grid, size.hw).rank  # of these frames, on this process alone
    easy = (rank < len(chosen) // 2).view(-1, grid, grid).cpu().numpy()
    pictures = as_uint8(images)
    for row, index in enumerate(chosen):
        label = None if labelled is None else labelled.label(index).resize(size, 0)
        ours = upsample(logits[row : row + 1], size.hw)
        save_frame(
            folder,
            frames.name(index),
            image=pictures[row],
            source=_labels(upsample(theirs[row : row + 1], size.hw)),
            adapted=_labels(ours),
            label=None if label is None else np.asarray(label),
            entropy=torch.special.entr(ours.softmax(1)).sum(1)[0].cpu().numpy(),
            easy=easy[row] if grid > 1 else None,
            palette=source_info.palette,
        )


@torch.no_grad()
def save_synthetic_panels(folder: Path, synthetic: Tensor, source: nn.Module, info: WeightsInfo) -> None:
    """Write synthetic images (B, 3, h, w), as the source model takes them, and what it sees in them."""
    images = synthetic.detach()
    # they live in normalized space and need not lie in the range of a photograph
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    logits = upsample(source.eval()(images).logits.float(), (images.shape[-2], images.shape[-1]))
    shown = as_uint8((images - low) / (high - low).clamp_min(1e-6))
    save_synthetic(folder, shown, logits.argmax(1).byte().cpu().numpy(), info.palette)


def _logits(model: nn.Module, preprocess: Preprocess, images: Tensor) -> Tensor:
    """Logits (B, K, h, w) fp32 of images (B, 3, H, W), passed one by one."""
    model.eval()
    preprocess.to(images.device)
    return torch.cat([model(preprocess(image[None])).logits.float() for image in images])


def _labels(logits: Tensor) -> np.ndarray:
    return logits.argmax(1)[0].byte().cpu().numpy()
