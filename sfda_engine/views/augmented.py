"""Augmented views of target frames: what a model says of a frame seen mirrored, at other sizes, brighter and darker.

Shapes: B frames, V views, K classes, H/W the size that the model sees, h/w that of a view.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from sfda_engine.data.images import resize, to_float_tensor
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.segmenter import Size, alignment_of, scaled_size, upsample

PIXELS_AT_ONCE = 2**17
"""Frames go through in batches of at most 8 and about this many pixels, which bounds the memory."""
EPSILON = 1e-8


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How a view differs from the frame."""

    scale: float = 1.0
    """Factor of width and height."""
    mirrored: bool = False
    brightness: float = 1.0
    """Factor of the pixel values after exposure correction, which would undo it before; clipped at white."""


VIEWS = {
    "plain": Augmentation(),
    "mirrored": Augmentation(mirrored=True),
    "larger": Augmentation(scale=1.25),
    "smaller": Augmentation(scale=0.75),
    "brighter": Augmentation(brightness=1.2),
    "darker": Augmentation(brightness=0.8),
}


class View(NamedTuple):
    """One augmentation of a batch of frames."""

    name: str
    images: Tensor
    """float32 (B, 3, h, w) RGB in [0, 1], exposure corrected, not yet normalized."""
    augmentation: Augmentation


def views(frames: Sequence[Image.Image], preprocess: Preprocess, size: Size, alignment: int = 1) -> Iterator[View]:
    """The views of RGB frames of any size, plain first, for a model that sees them at `size` (width, height)."""
    device = preprocess.mean.device
    for name, augmentation in VIEWS.items():
        scaled = scaled_size(size, augmentation.scale, alignment)
        images = torch.stack([to_float_tensor(resize(frame, scaled)) for frame in frames]).to(device)
        images = (preprocess.expose(images) * augmentation.brightness).clamp(0.0, 1.0)
        yield View(name, images.flip(-1) if augmentation.mirrored else images, augmentation)


@torch.no_grad()
def view_probabilities(
    model: nn.Module, preprocess: Preprocess, frames: Sequence[Image.Image], size: Size
) -> Iterator[tuple[str, Tensor]]:
    """Name and softmax (B, K, H, W) float32 of each view, laid back over the plain frame; one view at a time.

    `model` is a segmenter in eval mode.
    """
    width, height = size
    for name, images, augmentation in views(frames, preprocess, size, alignment_of(model)):
        inputs = preprocess.normalize(images).contiguous(memory_format=torch.channels_last)
        probabilities = upsample(model(inputs).logits.float(), (height, width)).softmax(1)
        yield name, probabilities.flip(-1) if augmentation.mirrored else probabilities


def batches(frames: Sequence[Image.Image], size: Size) -> Iterator[Sequence[Image.Image]]:
    """The frames in turn, as many at a time as memory is meant to hold at `size` (width, height)."""
    count = max(1, min(8, PIXELS_AT_ONCE // (size[0] * size[1])))
    return (frames[first : first + count] for first in range(0, len(frames), count))


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy (B, ...) in nats of probabilities (B, K, ...)."""
    return -(probabilities * (probabilities + EPSILON).log()).sum(1)
