"""Segmenters by name; the other networks, preprocessing and weights files are in their modules."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from torch import nn

from sfda_engine.errors import UserError
from sfda_engine.models.deeplab import DeepLabV3
from sfda_engine.models.lraspp import LRASPP
from sfda_engine.models.segnet import SegNet
from sfda_engine.models.streetnet import StreetNet
from sfda_engine.models.user_module import build_user_module

ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    "streetnet": StreetNet,
    "deeplabv3_resnet50": DeepLabV3,
    "lraspp_mobilenet_v3_large": LRASPP,
    "segnet_vgg16": SegNet,
}


def build_segmenter(arch: str, num_classes: int | None, feature_layer: str | None = None) -> nn.Module:
    """Build a segmenter with random weights: `arch` is a key of ARCHITECTURES or "module.path:factory".

    `feature_layer` is the dotted name of the encoder's last layer; only a user module takes it. What is None is found
    by running a user module once; other architectures need `num_classes`.
    UserError: unknown name, fewer than 2 classes, or a user module that cannot be built.
    """
    if num_classes is not None and num_classes < 2:
        raise UserError(f"model.num_classes is {num_classes}: segmentation needs at least 2 classes")
    if ":" in arch:
        return build_user_module(arch, num_classes, feature_layer)
    if arch not in ARCHITECTURES:
        close = difflib.get_close_matches(arch, ARCHITECTURES, n=1, cutoff=0.4)
        hint = f"did you mean '{close[0]}'? " if close else ""
        known = ", ".join(ARCHITECTURES)
        raise UserError(f"unknown model.arch '{arch}': {hint}known are {known} and 'module.path:factory'")
    if feature_layer is not None:
        raise UserError(f"model.feature_layer '{feature_layer}' is given, but {arch} has its own: set it to null")
    if num_classes is None:
        raise UserError(f"the number of classes is unknown: give model.num_classes for {arch}")
    return ARCHITECTURES[arch](num_classes)
