"""ENTRY `accelerate launch -m sfda_engine.adapt`: adapt a source model to unlabelled target frames."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from torch import nn

from sfda_engine.audit.firewall import Firewall, firewall
from sfda_engine.audit.label_places import check_target_place
from sfda_engine.audit.provenance import code_identity, record_frames
from sfda_engine.config.checks import check_same_world
from sfda_engine.config.loader import parse_command, require_data, resolve_weights
from sfda_engine.config.presets import literal_warnings
from sfda_engine.config.schema import Config
from sfda_engine.data.datasets import check_label_folder, open_target
from sfda_engine.data.readers import Images
from sfda_engine.distributed.collectives import decided_by_main, leave, wait_for_all
from sfda_engine.errors import UserError
from sfda_engine.evaluate import check_subset, scoring_failed, window_of
from sfda_engine.evaluation.sliding_window import check_windows
from sfda_engine.exit_codes import run_entry
from sfda_engine.inspection.examination import examination_device, examine, exposure_of, heed
from sfda_engine.inspection.table import print_intake
from sfda_engine.method.steps import Networks
from sfda_engine.method.synthetic_views import generator_size, synthetic_sizes
from sfda_engine.method.teacher import label_target
from sfda_engine.method.warm_start import estimate_on_target
from sfda_engine.models.activation_checkpointing import checkpoint_activations
from sfda_engine.models.backbone import backbone_file
from sfda_engine.models.discriminator import PatchDiscriminator
from sfda_engine.models.generator import Generator
from sfda_engine.models.norms import require_batch_norm
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.segmenter import alignment_of, scaled_size
from sfda_engine.models.weights import WeightsInfo, save_weights, sha256_of
from sfda_engine.pipelines.build import (
    check_forward,
    check_output,
    check_share,
    end_trackers,
    fresh_segmenter,
    load_segmenter,
    make_accelerator,
    precision,
    run_folder,
)
from sfda_engine.pipelines.cost import print_plan
from sfda_engine.pipelines.finish import evaluate_all, export_bundle, finish, is_finished, ship
from sfda_engine.run_folder.lock import released_after
from sfda_engine.run_folder.resume import begin, origin_of
from sfda_engine.run_folder.start import Start, find_start, load_start, save_start
from sfda_engine.training.loop import LATENT, Trainer
from sfda_engine.views.augmented import VIEWS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adaptation:
    """What a finished run leaves: its folder and the content of result.json."""

    folder: Path
    result: dict[str, Any]


@released_after
def adapt(config: Config) -> Adaptation | None:
    """Run the whole SFDA loop and leave a run folder; None after a dry run.

    Labels are opened by `evaluate_all` alone, after the last step, and source data never: a firewall sees to it.
    Raises UserError for bad input, TrainingError where a term became NaN, FirewallError where anything tried to open
    a label, ExportError where `run.export` failed, KeyboardInterrupt after Ctrl-C (a checkpoint is written first).
    """
    check_target_place(config.target, config.evaluate)
    check_same_world(config)
    with firewall(config) as wall:
        return adapt_behind(wall, config)


def adapt_behind(wall: Firewall, config: Config) -> Adaptation | None:
    """`adapt`, behind its firewall."""
    precision(config)
    if config.run.dry_run:
        check_output(config)
    check_share(config.target.batch_size, "target.batch_size")
    require_data(config, "target", *(["evaluate"] if config.evaluate else []), dispensable=True)
    for warning in literal_warnings(config.method):
        log.warning(warning)
    source, info = load_segmenter(config.model)
    require_batch_norm(source, f"model.arch {info.arch}")
    target = open_target(config.target)
    if config.evaluate is not None:
        check_label_folder(config.evaluate, info.class_names)
        check_subset(config.evaluate.subset, info.class_names)
    for size in {config.target.size, config.target.seen, *synthetic_sizes(config), *scaled_sizes(source, config)}:
        check_forward(source, size)
    if config.evaluate is not None and (window := window_of(config.evaluate)):
        check_windows(source, window)
    if config.method.student_init == "fresh" and config.model.backbone_weights is not None:
        backbone_file(source, config.model.backbone_weights, download=config.model.download)
    source.to(examination_device())
    exposure = exposure_of(info, config.model)
    intake = examine(source, info, target, size=config.target.size, exposure=exposure)
    for warning in heed(intake, refuse=config.model.check_input):
        log.warning(warning)
    if config.run.dry_run:
        accelerator = make_accelerator(config, None)
        if accelerator.is_main_process:
            print_intake(intake, info, Console())
        since = time.perf_counter()
        trainer = make_trainer(config, accelerator, source, info, target, None)
        print_plan(config, trainer, info, time.perf_counter() - since)
        return None

    folder = run_folder(config)
    if config.run.resume and is_finished(config, folder):
        log.warning("%s is finished; nothing to resume", folder)
        return Adaptation(folder, json.loads((folder / "result.json").read_text()))
    accelerator = make_accelerator(config, folder)
    adapted_info = describe_adapted(info, config)
    origin = origin_of(accelerator, target, adapted_info.source_sha256)
    begin(config, accelerator, folder, ("run", "model", "target", "method"), origin)
    decided_by_main(lambda: record_frames(folder, target))
    wall.begin(folder, code=code_identity(info.arch))
    accelerator.init_trackers("tensorboard")
    trainer = make_trainer(config, accelerator, source, info, target, folder)
    trainer.run()
    shipped = ship(trainer, folder, info, adapted_info)
    wait_for_all()
    try:
        wall.lift(trainer.position.adaptation)
        scores = evaluate_all(config, accelerator, folder, source, info, shipped, adapted_info)
    except UserError as error:
        raise scoring_failed(error, folder) from error
    result = finish(config, trainer, folder, info, scores, shipped, intake, wall)
    end_trackers(accelerator)
    if config.run.export and accelerator.is_main_process:
        export_bundle(folder)
    return Adaptation(folder, result)


def scaled_sizes(source: nn.Module, config: Config) -> set[tuple[int, int]]:
    """[width, height] at which a user's own network will see target frames in views and pseudo-labelling; the engine's
    own networks take any."""
    method, alignment = config.method, alignment_of(source)
    if alignment == 1:
        return set()
    scales = {view.scale for view in VIEWS.values()} | set(method.pseudo_label_scales)
    return {scaled_size(config.target.size, scale, alignment) for scale in scales}


def make_trainer(
    config: Config,
    accelerator: Accelerator,
    source: nn.Module,
    info: WeightsInfo,
    target: Images,
    folder: Path | None,
) -> Trainer:
    """Networks, BN warm start and the trainer around them. `folder` None writes nothing (dry run)."""
    set_seed(config.run.seed)
    source = source.to(accelerator.device)
    adapted_info = describe_adapted(info, config)
    preprocess = Preprocess(info.normalization, adapted_info.exposure).to(accelerator.device)
    method = config.method
    student = copy.deepcopy(source)
    found = find_start(folder) if folder is not None and config.run.resume else None
    wait_for_all()  # all have looked before one writes
    if found is not None:
        start = load_start(found, student, target)
    else:
        start = make_start(config, accelerator, student, source, preprocess, target)
    if folder is not None and accelerator.is_main_process:
        if found is None:
            save_start(folder, student, adapted_info, start)
        save_weights(folder / "bn_warm_start.safetensors", student, adapted_info)
    set_seed(config.run.seed)  # one state from here on, whether the start was made or loaded
    if method.student_init == "fresh":
        student = fresh_segmenter(info, config.model)
    elif not method.bn_warm_start_passes:
        student = copy.deepcopy(source)
    if config.model.activation_checkpointing:
        checkpoint_activations(student)
    networks = Networks(
        source=source,
        student=student,
        generator=Generator(generator_size(config), latent_dim=LATENT, width=method.generator_width),
        discriminator=PatchDiscriminator(info.num_classes, method.patch_grid**2),
    )
    return Trainer(config, accelerator, networks, preprocess, target, folder, start)


def make_start(
    config: Config,
    accelerator: Accelerator,
    student: nn.Module,
    source: nn.Module,
    preprocess: Preprocess,
    target: Images,
) -> Start:
    """BN warm start of `student`, in place, and pseudo-labels by it where the run trains on them.

    A run without a warm start of its own (preset literal, a fresh student) has it too, for comparison.
    """
    method = config.method
    passes = method.bn_warm_start_passes or 2
    share = estimate_on_target(
        student, source, preprocess, target, config, accelerator, passes=passes, share=method.bn_source_share
    )
    if method.pseudo_label_weight == 0:
        return Start(share)
    labelled = label_target(
        student,
        preprocess,
        target,
        size=config.target.size,
        scales=method.pseudo_label_scales,
        drop=method.pseudo_label_drop,
        batch_size=config.target.batch_size,
        device=accelerator.device,
        source=source,
        source_share=share,
        progress=accelerator.is_main_process,
    )
    return Start(share, labelled)


def describe_adapted(info: WeightsInfo, config: Config) -> WeightsInfo:
    """What the adapted file says of itself: exposure corrected where the source or the configuration asks for it."""
    weights = resolve_weights(config.model.weights or "")
    return dataclasses.replace(
        info,
        exposure=exposure_of(info, config.model),
        size=config.target.size,
        source_sha256=sha256_of(weights),
        method=f"sfda {config.method.preset}",
    )


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and adapt."""
    config = parse_command(
        sys.argv[1:] if argv is None else argv,
        prog="accelerate launch -m sfda_engine.adapt",
        description="Adapt a source segmentation model to unlabelled target frames, without any source data.",
        default_config="demo",
    )
    adapt(config)
    leave()
    return 0


if __name__ == "__main__":
    run_entry(main)
