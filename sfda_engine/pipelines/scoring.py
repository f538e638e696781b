"""Fifth stage of a run: scores where labels are given, which are opened here for the first time."""

from __future__ import annotations

import copy
import logging

from sfda_engine.config.schema import EvaluateConfig
from sfda_engine.data.datasets import open_evaluate
from sfda_engine.data.images import stated
from sfda_engine.evaluation.expectation import deviation_warnings
from sfda_engine.evaluation.scores import Evaluation
from sfda_engine.evaluation.scoring import evaluate_images
from sfda_engine.models.weights import load_state, read_weights
from sfda_engine.pipelines.inputs import Inputs, window_of
from sfda_engine.pipelines.judging import Shipped

log = logging.getLogger(__name__)

Scores = dict[str, Evaluation]
"""By model: source, bn_warm_start, start, adapted, last; empty where no labels were given."""


def score(inputs: Inputs, shipped: Shipped) -> Scores:
    """Score source, full BN warm start, start, adapted and last on the frames of section `evaluate`."""
    wanted, size = inputs.config.evaluate, stated(inputs.config.target.size)
    if wanted is None:
        return {}
    assert inputs.folder is not None
    assert size is not None
    models = {"source": (inputs.source, inputs.info)}
    for name in ("bn_warm_start", "start", "adapted", "last"):
        network = copy.deepcopy(shipped.network)
        load_state(network, read_weights(inputs.folder / f"{name}.safetensors")[0], name)
        models[name] = (network, shipped.info if name == "adapted" else inputs.adapted_info)
    images = open_evaluate(wanted, class_names=inputs.info.class_names, size=size)
    return {
        name: evaluate_images(
            model,
            described,
            images,
            size,
            inputs.accelerator,
            wanted.subset,
            as_deployed=wanted.as_deployed,
            window=window_of(wanted),
        )
        for name, (model, described) in models.items()
    }


def deviations(wanted: EvaluateConfig, miou: float) -> list[str]:
    """Warnings, logged too, where the untouched source scores `miou` (percent) and another figure is expected."""
    where = " ".join(filter(None, (wanted.dataset, wanted.split)))
    warnings = deviation_warnings(wanted.expected_source_miou, miou, where)
    for warning in warnings:
        log.warning(warning)
    return warnings
