"""What labels could have given a row: the best view of the source, and the same steps on the target's own labels."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate.utils import set_seed
from torch.nn import functional
from torchvision.transforms.v2 import functional as transforms

from sfda_engine.config.loader import parse_command
from sfda_engine.config.schema import Config
from sfda_engine.data.datasets import open_evaluate
from sfda_engine.data.folder import IGNORE
from sfda_engine.data.frame_sample import SampledFrames, spread
from sfda_engine.data.images import ImageSize, stated
from sfda_engine.data.readers import LabelledImages
from sfda_engine.evaluation.scoring import evaluate_images
from sfda_engine.judge.agreement import confusion_counts, macro_iou
from sfda_engine.method.pseudo_labels import PseudoLabelled
from sfda_engine.method.steps import Networks
from sfda_engine.models.discriminator import PatchDiscriminator
from sfda_engine.models.generator import Generator
from sfda_engine.pipelines.choosing import CHOICE_STATISTICS_FRAMES, frames_for_statistics
from sfda_engine.pipelines.inputs import Inputs, accelerator_for, inputs_of, open_inputs
from sfda_engine.pipelines.objective import synthetic_size
from sfda_engine.pipelines.preparation import Prepared, frames_to_train_on, preprocess_for, put_under
from sfda_engine.pipelines.training import Trainer
from sfda_engine.run_folder.start import FOLDER, load_start
from sfda_engine.views.candidates import candidates
from sfda_engine.views.probabilities import predict
from sfda_engine.views.view import View

FRAMES = 32
"""Labelled frames on which all views are compared; the best is then scored on all."""


@dataclass(frozen=True)
class Ceilings:
    """Percent mIoU at the labels' own size."""

    best_view: float
    """At the size of the run where that was stated, else at any."""
    oracle: float
    """Trained and scored on the same labelled frames, from the run's own start."""


def ceilings(run_folder: Path) -> Ceilings:
    """Of a finished run of `adapt` whose section `evaluate` names labels."""
    config = parse_command(
        ["--config", str(run_folder / "config.yaml")], prog="", description="", default_config="demo"
    )
    opened = open_inputs(config)
    inputs = inputs_of(config, accelerator_for(config, None), opened.source, opened.info, opened.target, None)
    labelled = labelled_images(inputs, config, inputs.sizes[0])
    view = best_view(inputs, labelled)
    best = copy.deepcopy(inputs.source)
    put_under(inputs, best, view)
    return Ceilings(miou(inputs.under(view), best, labelled), oracle(inputs, labelled, run_folder))


def labelled_images(inputs: Inputs, config: Config, size: ImageSize) -> LabelledImages:
    assert config.evaluate is not None
    return open_evaluate(config.evaluate, class_names=inputs.info.class_names, size=size)


def miou(inputs: Inputs, network: torch.nn.Module, labelled: LabelledImages) -> float:
    """Of a network at the size and exposure that `inputs` are under."""
    size = stated(inputs.config.target.size)
    assert size is not None
    return evaluate_images(network, inputs.adapted_info, labelled, size, inputs.accelerator).own_size.miou


def best_view(inputs: Inputs, labelled: LabelledImages) -> View:
    """The candidate whose labels are most right on FRAMES frames, compared on the grid of the choice."""
    places, info = spread(len(labelled), FRAMES), inputs.info
    size = stated(inputs.config.target.size)
    views = [view for view in candidates(inputs.source, inputs.sizes, info.exposure) if size in (None, view.size)]
    statistics = frames_for_statistics(inputs.target, CHOICE_STATISTICS_FRAMES)
    frames = [labelled.image(place) for place in places]
    seen = predict(inputs.source, info.normalization, views, info.num_classes, frames, statistics)
    grid = seen.labels.shape[-2:]
    truth = torch.stack([on_grid(labelled, place, (grid[0], grid[1])) for place in places])
    known = truth != IGNORE
    scores = [
        macro_iou(confusion_counts(truth[known][None], labels[known][None], info.num_classes)[0]).item()
        for labels in seen.labels
    ]
    return views[scores.index(max(scores))]


def on_grid(labelled: LabelledImages, index: int, grid: tuple[int, int]) -> torch.Tensor:
    """A label (h, w) int64 on the grid, by nearest."""
    label = transforms.pil_to_tensor(labelled.label(index))[None].float()
    return functional.interpolate(label, grid, mode="nearest-exact")[0, 0].long()


def oracle(inputs: Inputs, labelled: LabelledImages, run_folder: Path) -> float:
    """mIoU after the run's own steps from its start, on the labels themselves instead of the teacher's."""
    student = copy.deepcopy(inputs.source)
    start = load_start(run_folder / FOLDER, student, frames_to_train_on(inputs))
    frames = SampledFrames(labelled, tuple(range(len(labelled))))
    truth = [labelled.label(index) for index in range(len(labelled))]
    start = replace(start, pseudo_labelled=PseudoLabelled(frames, truth, [ImageSize(*one.size) for one in truth]))
    inputs = inputs.under(start.view)
    set_seed(inputs.config.run.seed)
    networks = Networks(
        source=inputs.source,
        student=student,
        generator=Generator(synthetic_size(inputs.config).hw),
        discriminator=PatchDiscriminator(inputs.info.num_classes, inputs.config.method.patch_grid**2),
    )
    trainer = Trainer(Prepared(inputs, frames, networks, preprocess_for(inputs, start.view), start))
    trainer.run()
    trainer.finish_statistics(student)
    return miou(inputs, student, labelled)
