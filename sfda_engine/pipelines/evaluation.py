"""Evaluation of `model.weights` on the labelled frames of section `evaluate`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from sfda_engine.config.loader import require_data
from sfda_engine.config.schema import Config, EvaluateConfig
from sfda_engine.data.datasets import open_evaluate
from sfda_engine.data.images import ImageSize, stated
from sfda_engine.data.preflight import look_at
from sfda_engine.errors import UserError
from sfda_engine.evaluation.scores import Evaluation, as_json, check_subset
from sfda_engine.evaluation.scoring import evaluate_images
from sfda_engine.evaluation.sliding_window import check_windows
from sfda_engine.files import write_json
from sfda_engine.models.segmenter import check_forward
from sfda_engine.models.weights import WeightsInfo
from sfda_engine.pipelines.inputs import accelerator_for, window_of
from sfda_engine.pipelines.networks import load_segmenter
from sfda_engine.run_folder.create import new_folder


def evaluate(config: Config) -> Evaluation:
    """Score `model.weights` on the frames of section `evaluate`; writes evaluation.json where run.output is named."""
    require_data(config, "evaluate")
    assert config.evaluate is not None
    accelerator = accelerator_for(config, None)
    model, info = load_segmenter(config.model)
    check_subset(config.evaluate.subset, info.class_names)
    size = stated(config.target.size) or info.size
    if size is None:
        raise UserError(
            "target.size is null, and the weights do not say it: state it with --target.size [WIDTH, HEIGHT]"
        )
    check_forward(model, size)
    if window := window_of(config.evaluate):
        check_windows(model, window)
    output = config.run.output
    with nullcontext() if output is None else new_folder(Path(output).expanduser()) as folder:
        result = evaluate_model(model, info, config.evaluate, size, accelerator)
        if accelerator.is_main_process and folder is not None:
            write_json(folder / "evaluation.json", as_json(result))
    return result


def evaluate_model(
    model: nn.Module,
    info: WeightsInfo,
    config: EvaluateConfig,
    size: ImageSize,
    accelerator: Accelerator,
) -> Evaluation:
    """Score a segmenter on labelled frames resized to `size` (width, height). Raises UserError on bad labels."""
    images = open_evaluate(config, class_names=info.class_names, size=size)
    look_at(images, same_size=False)
    window = window_of(config)
    return evaluate_images(
        model, info, images, size, accelerator, config.subset, as_deployed=config.as_deployed, window=window
    )
