"""What a data set offers: `Images` has no label to give, `LabelledImages` has. Adaptation is typed on the first."""

from __future__ import annotations

from typing import Protocol

from PIL import Image


class Images(Protocol):
    """Named RGB frames. There is deliberately no way from here to a label."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def image(self, index: int) -> Image.Image: ...


class LabelledImages(Images, Protocol):
    """Named RGB frames with their train-id labels; opened by `evaluate` and `train_source` alone."""

    def label(self, index: int) -> Image.Image: ...
