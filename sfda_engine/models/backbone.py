"""ImageNet weights for the encoder of a network that starts fresh, from a local file of torchvision's classifiers."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from sfda_engine.errors import UserError
from sfda_engine.models.deeplab import DeepLabV3
from sfda_engine.models.lraspp import LRASPP
from sfda_engine.models.segnet import SegNet
from sfda_engine.models.weights import load_state, read_weights

# classifier -> encoder: the prefix that a key loses, the encoder's attribute, and what the classifier has on top
ENCODERS: dict[type[nn.Module], tuple[str, str, tuple[str, ...]]] = {
    DeepLabV3: ("", "backbone", ("fc.",)),  # resnet50
    LRASPP: ("features.", "backbone", ("classifier.",)),  # mobilenet_v3_large
    SegNet: ("features.", "encoder", ("classifier.",)),  # vgg16_bn
}


def load_backbone(model: nn.Module, path: str | Path) -> None:
    """Load torchvision's resnet50, mobilenet_v3_large or vgg16_bn weights into the encoder of `model`, strictly.

    Raises UserError where the architecture has no such encoder or the file does not fit it.
    """
    if type(model) not in ENCODERS:
        raise UserError(f"model.backbone_weights: {type(model).__name__} has no encoder that ImageNet weights fit")
    prefix, attribute, top = ENCODERS[type(model)]
    state, _ = read_weights(path)
    encoder = {key.removeprefix(prefix): value for key, value in state.items() if not key.startswith(top)}
    load_state(getattr(model, attribute), encoder, path)
