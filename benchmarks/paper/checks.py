"""Before anything runs: the data that the runs need are there, each complaint naming the option that helps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.paper.domains import ARCHITECTURES
from benchmarks.paper.frames import NO_CAMVID, source_frames, target_frames
from benchmarks.paper.jobs import Run, run_config
from benchmarks.paper.options import Options
from benchmarks.paper.sources import Training, is_trained, source_config
from sfda_engine.config.schema import Config
from sfda_engine.data.classes import class_set
from sfda_engine.data.datasets import check_label_folder
from sfda_engine.errors import UserError
from sfda_engine.models import build_segmenter
from sfda_engine.models.backbone import backbone_file


def check_data(trainings: Sequence[Training], runs: Sequence[Run], options: Options) -> None:
    """Raises UserError where a root is not named, or holds no frames or labels of what a run needs."""
    for training in trainings:
        if not is_trained(training, options) or _opens_source(training, runs):
            _check_root(training.task.source_root, options)
            config = source_config(training, options)
            assert config.source is not None
            source_frames(config.source)
        if not is_trained(training, options):
            _check_backbone(config, training.network)
    for task, network in dict.fromkeys((run.job.task, run.job.network) for run in runs):
        _check_root(task.target_root, options)
        run = next(run for run in runs if (run.job.task, run.job.network) == (task, network))
        config = run_config(run, options)
        target_frames(config.target)
        assert config.evaluate is not None
        check_label_folder(config.evaluate, _class_names(source_config(Training(task, network), options)))
    for run in runs:
        if ("student_init", "fresh") in run.job.changes:
            _check_backbone(run_config(run, options), run.job.network)


def _opens_source(training: Training, runs: Sequence[Run]) -> bool:
    """Whether a run trains on labelled source frames or is scored on some."""
    own = [run.job for run in runs if Training(run.job.task, run.job.network).recipe == training.recipe]
    return any(job.method != "sfda" or ("student_init", "fresh") in job.changes for job in own)


def _check_root(name: str | None, options: Options) -> None:
    if name is None or name in options.roots:
        return
    if name == "camvid":
        raise UserError(NO_CAMVID)
    raise UserError(f"{name} is needed: give --data-root DIR, the folder that holds {name}/, or --root {name}=DIR")


def _check_backbone(config: Config, network: str) -> None:
    """The ImageNet weights that a fresh network starts from are there, or may be downloaded."""
    if config.model.backbone_weights is None:
        return
    with torch.device("meta"):
        model = build_segmenter(ARCHITECTURES[network], 2)
    try:
        path = backbone_file(model, config.model.backbone_weights, download=config.model.download)
    except UserError as error:
        raise UserError(f"{error} (the options here: --download, or --backbone {network}=FILE)") from error
    if not path.is_file():
        raise UserError(f"--backbone {network}: there is no file {path}")


def _class_names(recipe: Config) -> tuple[str, ...]:
    assert recipe.model.classes is not None
    return class_set(recipe.model.classes).names
