"""ImageNet weights for the encoder of a network that starts fresh: torchvision's classifiers, by file or from cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlparse

import torch
from torch import nn
from torchvision.models import MobileNet_V3_Large_Weights, ResNet50_Weights, VGG16_BN_Weights, WeightsEnum

from sfda_engine.errors import UserError
from sfda_engine.models.deeplab import DeepLabV3
from sfda_engine.models.lraspp import LRASPP
from sfda_engine.models.segnet import SegNet
from sfda_engine.models.weights import load_state, read_weights, sha256_of

IMAGENET = "imagenet"
"""The value of `model.backbone_weights` that stands for torchvision's published weights."""


@dataclass(frozen=True)
class Encoder:
    """How a torchvision classifier becomes a segmenter's encoder."""

    prefix: str
    """What the classifier's keys lose."""
    attribute: str
    """Where the encoder sits in the segmenter."""
    top: tuple[str, ...]
    """What the classifier has on top: keys that are dropped."""
    imagenet: WeightsEnum
    """Published weights; the first version, which was there when the paper was written."""


ENCODERS: dict[type[nn.Module], Encoder] = {
    DeepLabV3: Encoder("", "backbone", ("fc.",), ResNet50_Weights.IMAGENET1K_V1),
    LRASPP: Encoder("features.", "backbone", ("classifier.",), MobileNet_V3_Large_Weights.IMAGENET1K_V1),
    SegNet: Encoder("features.", "encoder", ("classifier.",), VGG16_BN_Weights.IMAGENET1K_V1),
}


def load_backbone(model: nn.Module, weights: str | Path, *, download: bool = False) -> None:
    """Load weights of torchvision's classifier (see `backbone_file`) into the encoder of `model`, strictly.

    Raises UserError where the architecture has no such encoder, or the file is absent or does not fit it.
    """
    path = backbone_file(model, weights, download=download)
    encoder = ENCODERS[type(model)]
    state, _ = read_weights(path)
    kept = {key.removeprefix(encoder.prefix): value for key, value in state.items() if not key.startswith(encoder.top)}
    load_state(getattr(model, encoder.attribute), kept, path)


def backbone_file(model: nn.Module, weights: str | Path, *, download: bool = False) -> Path:
    """The file behind `model.backbone_weights`: `weights` itself, or for "imagenet" torchvision's in torch's cache.

    What the cache lacks is downloaded only with `download`; its hash is checked in either case. Raises UserError where
    `model` has no such encoder, or the cache has no such file, or another one under its name.
    """
    if type(model) not in ENCODERS:
        raise UserError(f"model.backbone_weights: {type(model).__name__} has no encoder that ImageNet weights fit")
    if str(weights) != IMAGENET:
        return Path(weights)
    url = ENCODERS[type(model)].imagenet.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlparse(url).path).name
    if not path.is_file():
        _download(url, path, allowed=download)
    if not sha256_of(path).startswith(path.stem.rpartition("-")[2]):  # torch ends the name with the hash's first digits
        raise UserError(f"model.backbone_weights: {path} is damaged or another file (its hash differs); delete it")
    return path


def _download(url: str, path: Path, *, allowed: bool) -> None:
    if not allowed:
        raise UserError(
            f"model.backbone_weights is {IMAGENET}, but {path.name} is not in {path.parent}: let torchvision fetch it "
            "with --model.download true, put the file there, or name a file with --model.backbone_weights FILE"
        )
    try:
        torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True, progress=False)
    except (OSError, RuntimeError) as error:  # no network, no room, another hash
        raise UserError(
            f"model.download: {path.name} could not be downloaded ({error}); put the file into {path.parent} by hand"
        ) from error
