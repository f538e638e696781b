"""First stage of a run: the source network and the target frames, opened, checked and examined before anything is
written; then the run folder and the accelerator."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from sfda_engine.audit.firewall import Firewall
from sfda_engine.audit.provenance import code_identity, record_frames
from sfda_engine.config.loader import require_data, resolve_weights
from sfda_engine.config.presets import literal_warnings
from sfda_engine.config.schema import Config, EvaluateConfig
from sfda_engine.data.datasets import check_label_folder, open_target
from sfda_engine.data.images import ImageSize, stated
from sfda_engine.data.readers import Images
from sfda_engine.distributed.accelerator import check_share, make_accelerator, precision
from sfda_engine.distributed.collectives import decided_by_main
from sfda_engine.evaluation.scores import check_subset
from sfda_engine.evaluation.sliding_window import Window, check_windows
from sfda_engine.inspection.examination import Intake, examination_device, examine, exposure_of, heed
from sfda_engine.models.backbone import backbone_file
from sfda_engine.models.norms import require_batch_norm
from sfda_engine.models.segmenter import ALIGNMENT, check_forward
from sfda_engine.models.weights import WeightsInfo, sha256_of
from sfda_engine.pipelines.networks import load_segmenter
from sfda_engine.pipelines.objective import objective_of, synthetic_size
from sfda_engine.run_folder.create import check_output, create_run_folder
from sfda_engine.run_folder.resume import begin, origin_of
from sfda_engine.views.candidates import candidate_sizes, rounded
from sfda_engine.views.view import View

log = logging.getLogger(__name__)

MOST_EXAMINED = 2**17
"""Pixels of a frame that is examined, where no size is known."""
WINDOW_OVERLAP = 0.25
"""Share of a window's sides that the next one covers again, at least."""


@dataclass(frozen=True)
class Opened:
    """What the user named, opened and found fit."""

    source: nn.Module
    """In eval mode."""
    info: WeightsInfo
    """Of the source, as its file and section `model` say."""
    target: Images
    intake: Intake


@dataclass(frozen=True)
class Inputs:
    """Source network and target frames, and where the run computes and writes."""

    config: Config
    accelerator: Accelerator
    source: nn.Module
    info: WeightsInfo
    """Of the source."""
    target: Images
    sizes: tuple[ImageSize, ...]
    """(width, height) at which the network can be shown the frames: the stated one and those around it, or all that
    are to choose from."""
    folder: Path | None
    """None writes nothing (dry run)."""

    def under(self, view: View) -> Inputs:
        """The same run with the exposure, size and share that were chosen for it."""
        config = replace(
            self.config,
            model=replace(self.config.model, exposure=view.exposure),
            target=replace(self.config.target, size=(view.size.width, view.size.height)),
            method=replace(self.config.method, bn_share=view.share),
        )
        return replace(self, config=config)

    @property
    def adapted_info(self) -> WeightsInfo:
        """What the adapted file says of itself, once the view is chosen."""
        exposure = self.config.model.exposure
        return replace(
            self.info,
            exposure=self.info.exposure if exposure == "auto" else exposure,
            size=stated(self.config.target.size),
            source_sha256=sha256_of(resolve_weights(self.config.model.weights)),
            method=f"sfda {self.config.method.preset}",
        )


def inputs_of(
    config: Config, accelerator: Accelerator, source: nn.Module, info: WeightsInfo, target: Images, folder: Path | None
) -> Inputs:
    """The inputs of a run on an opened network, in eval mode, and frames. UserError as `candidate_sizes` raises it."""
    sizes = candidate_sizes(source, ImageSize(*target.image(0).size), stated(config.target.size), info.size)
    return Inputs(config, accelerator, source, info, target, tuple(sizes), folder)


def open_inputs(config: Config) -> Opened:
    """Open and check everything that `adapt` will need, labels aside. Raises UserError; nothing is written."""
    precision(config.run.mixed_precision)
    if config.run.dry_run:
        check_output(config.run.output, resume=config.run.resume, name=config.name)
    check_share(config.target.batch_size, "target.batch_size")
    require_data(config, "target", *(["evaluate"] if config.evaluate else []), dispensable=True)
    for warning in literal_warnings(config.method):
        log.warning(warning)
    source, info = load_segmenter(config.model)
    target = open_target(config.target)
    check_against(config, source, info)
    source.to(examination_device())
    intake = examine(
        source, info, target, size=first_size(config, info, target), exposure=exposure_of(info, config.model.exposure)
    )
    for warning in heed(intake, refuse=config.model.check_input):
        log.warning(warning)
    return Opened(source, info, target, intake)


def first_size(config: Config, info: WeightsInfo, target: Images) -> ImageSize:
    """(width, height) to look at the frames at before a size is chosen: stated, the source's own, or the frames'."""
    own = ImageSize(*target.image(0).size)
    shrunk = min(1.0, (MOST_EXAMINED / (own.width * own.height)) ** 0.5)
    return stated(config.target.size) or info.size or ImageSize(*(rounded(side * shrunk, ALIGNMENT) for side in own))


def check_against(config: Config, source: nn.Module, info: WeightsInfo) -> None:
    """UserError where the network cannot take what the configuration will show it, or labels do not fit its classes."""
    if objective_of(config.method).uses_transfer:
        require_batch_norm(source, f"method.alpha is {config.method.alpha:g}, method.beta {config.method.beta:g}")
    if config.evaluate is not None:
        check_label_folder(config.evaluate, info.class_names)
        check_subset(config.evaluate.subset, info.class_names)
    if config.target.seen is not None:
        for size in {ImageSize(*config.target.seen), synthetic_size(config)}:
            check_forward(source, size)
    if config.evaluate is not None and (window := window_of(config.evaluate)):
        check_windows(source, window)
    if config.method.student_init == "fresh" and config.model.backbone_weights is not None:
        backbone_file(source, config.model.backbone_weights, download=config.model.download)


def window_of(config: EvaluateConfig) -> Window | None:
    """The sliding window that is asked for; None = whole frames."""
    return Window(*config.window, WINDOW_OVERLAP) if config.window else None


def accelerator_for(config: Config, folder: Path | None) -> Accelerator:
    """The accelerator that section `run` asks for."""
    run = config.run
    return make_accelerator(
        mixed_precision=run.mixed_precision,
        gradient_accumulation=run.gradient_accumulation,
        log_with=run.log_with,
        folder=folder,
    )


def run_folder_of(config: Config) -> Path:
    """The folder of this run, created. Raises UserError as `create_run_folder` does."""
    return create_run_folder(config.run.output, resume=config.run.resume, name=config.name)


def begin_run(config: Config, opened: Opened, folder: Path, wall: Firewall) -> Inputs:
    """Write into `folder` what a resume and `certify` will compare with. Raises UserError where a resume differs."""
    inputs = inputs_of(config, accelerator_for(config, folder), opened.source, opened.info, opened.target, folder)
    origin = origin_of(inputs.accelerator, inputs.target, inputs.adapted_info.source_sha256)
    begin(config, inputs.accelerator, folder, ("run", "model", "target", "method"), origin)
    decided_by_main(lambda: record_frames(folder, inputs.target))
    wall.begin(folder, code=code_identity(inputs.info.arch))
    inputs.accelerator.init_trackers("tensorboard")
    return inputs
