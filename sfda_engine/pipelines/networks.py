"""From section `model` of a configuration to a segmenter and what is known of it."""

from __future__ import annotations

import dataclasses
import logging

from torch import nn

from sfda_engine.config.loader import resolve_weights
from sfda_engine.config.schema import ModelConfig
from sfda_engine.data.classes import ClassSet, class_set, generic_classes
from sfda_engine.errors import UserError
from sfda_engine.models import build_segmenter
from sfda_engine.models.backbone import ENCODERS, load_backbone
from sfda_engine.models.preprocess import Normalization
from sfda_engine.models.weights import WeightsInfo, build_from_weights, read_weights

log = logging.getLogger(__name__)


def load_segmenter(config: ModelConfig) -> tuple[nn.Module, WeightsInfo]:
    """Build and load the segmenter of `config.weights`, in eval mode; what the file does not say, the config must.

    Raises UserError where file and config contradict each other or too little is known.
    """
    if config.weights is None:
        raise UserError("no weights given; name the source model with --model.weights FILE")
    path = resolve_weights(config.weights)
    classes = class_set(config.classes) if config.classes else None
    foreign = read_weights(path)[1] is None
    num_classes = config.num_classes or (len(classes.names) if classes and foreign else None)
    model, info = build_from_weights(path, config.arch, num_classes, config.feature_layer)
    return model.eval(), complete_info(info, config, classes, foreign=foreign)


def fresh_segmenter(info: WeightsInfo, config: ModelConfig) -> nn.Module:
    """A network of the described kind that knows nothing yet, but ImageNet where `config.backbone_weights` is given."""
    model = build_segmenter(info.arch, info.num_classes, info.feature_layer)
    if config.backbone_weights is not None:
        load_backbone(model, config.backbone_weights, download=config.download)
    elif type(model) in ENCODERS:
        log.warning(
            "model.backbone_weights is null: the encoder of %s starts from random weights. The paper starts from "
            "ImageNet (--model.backbone_weights imagenet); without it the model will be much weaker",
            info.arch,
        )
    return model


def complete_info(info: WeightsInfo, config: ModelConfig, classes: ClassSet | None, *, foreign: bool) -> WeightsInfo:
    """Fill in class names, palette and normalization from the config; a file's own word must not be contradicted."""
    if classes is not None and len(classes.names) != info.num_classes:
        raise UserError(
            f"model.classes {classes.name} has {len(classes.names)} classes, the model has {info.num_classes}"
        )
    if not info.class_names or (classes is not None and foreign):
        classes = classes or generic_classes(info.num_classes)
        info = dataclasses.replace(info, class_names=classes.names, palette=classes.palette)
    if config.normalization is not None:
        stated = Normalization(**dataclasses.asdict(config.normalization))
        if not foreign and stated != info.normalization:
            raise UserError(
                f"model.normalization {stated} differs from the weights' own {info.normalization}; leave it null"
            )
        info = dataclasses.replace(info, normalization=stated)
    elif foreign:
        log.warning("weights say no input normalization; ImageNet's is assumed (set model.normalization)")
    return info
