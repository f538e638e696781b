"""A view: how a network is shown the frames, and which BatchNorm statistics it sees them with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sfda_engine.data.images import ImageSize
from sfda_engine.models.preprocess import Exposure


@dataclass(frozen=True)
class View:
    """One way to run the source network on target frames; its weights are the same in all."""

    exposure: Exposure
    """What is done to the light of each frame before the network's own normalization."""
    size: ImageSize
    """(width, height) in pixels at which the network sees a frame."""
    share: float
    """Of the source's BatchNorm statistics, 0..1; the rest are the target's at this exposure and size."""


def untouched(view: View, exposure: Exposure) -> View:
    """The source as it came, at the size of `view`; `exposure` is the one that the source states."""
    return replace(view, exposure=exposure, share=1.0)


def departure(view: View, exposure: Exposure) -> float:
    """How far a view is from the untouched source at its size, 0..2: what the target's statistics weigh, plus 1 for an
    exposure other than the source's."""
    return 1.0 - view.share + float(view.exposure != exposure)


def pixels(size: ImageSize) -> int:
    """Width times height."""
    return size.width * size.height


def by_pixels(sizes: Sequence[ImageSize]) -> list[ImageSize]:
    """Sizes without repeats, the smallest first."""
    return sorted(set(sizes), key=lambda size: (pixels(size), size))
