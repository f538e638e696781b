"""Networks of a user's own, small enough to be exported in a second or two, and weights files of them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from sfda_engine.data.classes import generic_classes
from sfda_engine.data.images import ImageSize
from sfda_engine.models import build_segmenter
from sfda_engine.models.weights import WeightsInfo, save_weights
from sfda_runtime.card import Card

CLASSES = generic_classes(4)
SIZE = ImageSize(48, 32)


class Net(nn.Module):
    """Logits at half size."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(self.body(images))}


class Branching(Net):
    """Branches on its data, which no export can follow."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.body(images))
        return {"out": logits if logits.mean() > 0 else -logits}


class OneSize(Net):
    """Learned for frames of SIZE alone."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.position = nn.Parameter(torch.randn(1, num_classes, 16, 24))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(self.body(images)) + self.position}


class Overflowing(Net):
    """A white pixel makes a logit infinite; other frames are as in Net."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        excess = (images[:, :1, ::2, ::2] - 2.0).relu()
        return {"out": self.head(self.body(images)) + excess * 3e38 * 10}


class Float32(Net):
    """Makes a float32 tensor whatever the type of its input."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(self.body(images) @ torch.eye(24, dtype=torch.float32))}


def small_network(factory: str = "Net") -> nn.Module:
    """A network of this module with 4 classes as a segmenter; the same weights each time."""
    torch.manual_seed(0)
    return build_segmenter(f"{__name__}:{factory}", len(CLASSES.names), "body").eval()


def save_small(path: Path, factory: str = "Net") -> Path:
    """Weights of `small_network` with a description of their own."""
    info = WeightsInfo(
        arch=f"{__name__}:{factory}",
        num_classes=len(CLASSES.names),
        class_names=CLASSES.names,
        palette=CLASSES.palette,
        feature_layer="body",
        size=SIZE,
    )
    save_weights(path, small_network(factory), info)
    return path


def small_card() -> Card:
    """A card for `small_network`, as the exporter gets it."""
    return Card(
        arch=f"{__name__}:Net",
        classes=CLASSES.names,
        palette=CLASSES.palette,
        size=SIZE,
        normalization={},
        opset=0,
        ir=0,
        weights_sha256="",
        versions={},
    )
