"""ENTRY `accelerate launch -m sfda_engine.adapt`: adapt a source model to unlabelled target frames."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from torch import nn

from sfda_engine.activation_checkpointing import checkpoint_activations
from sfda_engine.build import (
    check_forward,
    check_share,
    end_trackers,
    fresh_segmenter,
    load_segmenter,
    make_accelerator,
    precision,
    run_folder,
)
from sfda_engine.config import Config
from sfda_engine.config_loader import parse_command, require_data, resolve_weights
from sfda_engine.data.datasets import check_label_folder, open_evaluate, open_target
from sfda_engine.data.loaders import TargetFrames, draw_loader
from sfda_engine.data.readers import Images
from sfda_engine.distributed import leave, wait_for_all
from sfda_engine.dry_run import print_plan
from sfda_engine.entry import run_entry
from sfda_engine.errors import UserError
from sfda_engine.evaluate import Evaluation, check_subset, evaluate_images, print_scores, scoring_failed, window_of
from sfda_engine.expectation import deviation_warnings
from sfda_engine.files import write_json
from sfda_engine.intake import Intake, examination_device, examine, exposure_of, heed
from sfda_engine.intake_table import intake_json, print_intake
from sfda_engine.models.backbone import backbone_file
from sfda_engine.models.batch_norm import reestimate_statistics, require_batch_norm
from sfda_engine.models.discriminator import PatchDiscriminator
from sfda_engine.models.generator import Generator
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.weights import WeightsInfo, load_state, read_weights, save_weights, sha256_of
from sfda_engine.presets import literal_warnings
from sfda_engine.pseudo_labels import PseudoLabelled, label_target
from sfda_engine.report import write_report
from sfda_engine.report.panels import save_panels, save_synthetic_panels
from sfda_engine.results import Result, as_json
from sfda_engine.start import find_start, load_start, save_start
from sfda_engine.steps import Networks, uses_transfer
from sfda_engine.synthetic_views import generator_size, synthetic_sizes
from sfda_engine.trainer import LATENT, Trainer, peak_memory_mb
from sfda_engine.unchanged import begin, origin_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adaptation:
    """What a finished run leaves: its folder and the content of result.json."""

    folder: Path
    result: dict[str, Any]


def adapt(config: Config) -> Adaptation | None:
    """Run the whole SFDA loop and leave a run folder; None after a dry run.

    Labels are opened by `evaluate_all` alone, after the last step. Raises UserError for bad input, TrainingError
    where a term became NaN, ExportError where `run.export` failed, KeyboardInterrupt after Ctrl-C (a checkpoint is
    written first).
    """
    precision(config)
    check_share(config.target.batch_size, "target.batch_size")
    require_data(config, "target", *(["evaluate"] if config.evaluate else []))
    for warning in literal_warnings(config.method):
        log.warning(warning)
    source, info = load_segmenter(config.model)
    require_batch_norm(source, f"model.arch {info.arch}")
    target = open_target(config.target)
    if config.evaluate is not None:
        check_label_folder(config.evaluate, info.class_names)
        check_subset(config.evaluate.subset, info.class_names)
    for size in {config.target.size, config.target.seen, *synthetic_sizes(config)}:
        check_forward(source, size)
    if config.method.student_init == "fresh" and config.model.backbone_weights is not None:
        backbone_file(source, config.model.backbone_weights, download=config.model.download)
    source.to(examination_device())
    exposure = exposure_of(info, config.model)
    intake = examine(source, info, target, size=config.target.size, exposure=exposure)
    for warning in heed(intake, refuse=config.model.check_input):
        log.warning(warning)
    if config.run.dry_run:
        accelerator = make_accelerator(config, None)
        print_intake(intake, info, Console())
        print_plan(config, make_trainer(config, accelerator, source, info, target, None), info)
        return None

    folder = run_folder(config)
    if config.run.resume and is_finished(config, folder):
        log.warning("%s is finished; nothing to resume", folder)
        return Adaptation(folder, json.loads((folder / "result.json").read_text()))
    accelerator = make_accelerator(config, folder)
    adapted_info = describe_adapted(info, config)
    origin = origin_of(accelerator, target, adapted_info.source_sha256)
    begin(config, accelerator, folder, ("run", "model", "target", "method"), origin)
    accelerator.init_trackers("tensorboard")
    trainer = make_trainer(config, accelerator, source, info, target, folder)
    trainer.run()
    student = accelerator.unwrap_model(trainer.networks.student)
    if accelerator.is_main_process:
        # until a run is judged without labels (guard, selection), the last weights are the adapted ones
        for name in ("last", "adapted"):
            save_weights(folder / f"{name}.safetensors", student, adapted_info)
    wait_for_all()
    try:
        scores = evaluate_all(config, accelerator, folder, source, info, student, adapted_info)
    except UserError as error:
        raise scoring_failed(error, folder) from error
    result = finish(config, trainer, folder, info, adapted_info, scores, student, intake)
    end_trackers(accelerator)
    if config.run.export and accelerator.is_main_process:
        export_bundle(folder)
    return Adaptation(folder, result)


def is_finished(config: Config, folder: Path) -> bool:
    """Whether a run has left all that it was to leave; the report and the bundle come last."""
    last = ["result.json", "report.html"] + (["bundle"] if config.run.export else [])
    return all((folder / name).exists() for name in last)


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
    start = find_start(folder) if folder is not None and config.run.resume else None
    wait_for_all()  # all have looked before one writes
    if start is not None:
        pseudo_labelled = load_start(start, student, target)
    else:
        if folder is not None or method.bn_warm_start_passes:
            bn_warm_start(student, preprocess, target, config, accelerator)
        pseudo_labelled = pseudo_labels(student, preprocess, target, config, accelerator)
    if folder is not None and accelerator.is_main_process:
        if start is None:
            save_start(folder, student, adapted_info, pseudo_labelled)
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
    return Trainer(config, accelerator, networks, preprocess, target, folder, pseudo_labelled)


def bn_warm_start(
    student: nn.Module, preprocess: nn.Module, target: Images, config: Config, accelerator: Accelerator
) -> None:
    """Re-estimate the BN statistics of `student` on target frames: the baseline that adaptation has to beat.

    A run without a warm start of its own (preset literal, a fresh student) has it too, for comparison.
    """
    passes = config.method.bn_warm_start_passes or 2
    size, batch = config.target.size, config.target.batch_size
    loader = draw_loader(
        TargetFrames(target, size=size, flip=False, seed=config.run.seed),
        len(target),
        batch_size=batch,
        seed=config.run.seed,
        start=0,
        stop=max(1, passes * len(target) // batch),
    )
    student.to(accelerator.device).eval()
    reestimate_statistics(student, (preprocess(item["image"].to(accelerator.device)) for item in loader))


def pseudo_labels(
    student: nn.Module, preprocess: Preprocess, target: Images, config: Config, accelerator: Accelerator
) -> PseudoLabelled | None:
    """Target frames labelled by the BN-warm-started source, where the run trains on them; the same after a resume."""
    method = config.method
    if method.pseudo_label_weight == 0:
        return None
    return label_target(
        student,
        preprocess,
        target,
        size=config.target.size,
        scales=method.pseudo_label_scales,
        drop=method.pseudo_label_drop,
        batch_size=config.target.batch_size,
        device=accelerator.device,
        progress=accelerator.is_main_process,
    )


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


def evaluate_all(
    config: Config,
    accelerator: Accelerator,
    folder: Path,
    source: nn.Module,
    info: WeightsInfo,
    student: nn.Module,
    adapted_info: WeightsInfo,
) -> dict[str, Evaluation]:
    """Scores of source, BN warm start, adapted and last, where labels are given; opened here for the first time."""
    if config.evaluate is None:
        return {}
    models = {"source": (source, info)}
    for name in ("bn_warm_start", "adapted", "last"):
        shipped = copy.deepcopy(student)
        load_state(shipped, read_weights(folder / f"{name}.safetensors")[0], name)
        models[name] = (shipped, adapted_info)
    size = config.target.size
    images = open_evaluate(config.evaluate, class_names=info.class_names, size=size)
    subset, as_deployed, window = config.evaluate.subset, config.evaluate.as_deployed, window_of(config.evaluate)
    return {
        name: evaluate_images(
            model, described, images, size, accelerator, subset, as_deployed=as_deployed, window=window
        )
        for name, (model, described) in models.items()
    }


def finish(
    config: Config,
    trainer: Trainer,
    folder: Path,
    info: WeightsInfo,
    adapted_info: WeightsInfo,
    scores: dict[str, Evaluation],
    student: nn.Module,
    intake: Intake,
) -> dict[str, Any]:
    """Write figures, result.json and report.html; the main process alone, but for the synthetic images."""
    accelerator, warnings = trainer.accelerator, literal_warnings(config.method)
    if scores and config.evaluate is not None:
        deviating = deviation_warnings(config.evaluate, scores["source"].own_size.miou)
        for warning in deviating:
            log.warning(warning)
        warnings += deviating
    seconds = trainer.position.seconds
    frames = trainer.position.total * config.target.batch_size * config.run.gradient_accumulation
    result = as_json(
        Result(
            config=config,
            info=adapted_info,
            scores=scores,
            steps=trainer.position.adaptation,
            seconds=seconds,
            images_per_second=frames / seconds if seconds else 0.0,
            peak_memory_mb=peak_memory_mb(accelerator.device),
            device=str(accelerator.device),
            warnings=[*warnings, *heed(intake, refuse=False)],
            intake=intake_json(intake),
        )
    )
    synthetic = trainer.synthesize(6) if uses_transfer(config.method) else None
    if accelerator.is_main_process:
        source = trainer.networks.source
        save_panels(folder, config, trainer.target, source, info, student, adapted_info)
        if synthetic is not None:
            save_synthetic_panels(folder, synthetic, source, info)
        write_json(folder / "result.json", result)
        write_report(folder)
        console = Console()
        if scores:
            print_scores({name: scores[name] for name in ("source", "bn_warm_start", "adapted")}, console)
        console.print(f"report: {folder / 'report.html'}", soft_wrap=True)
    return result


def export_bundle(folder: Path) -> None:
    """`run.export`: the adapted model as ONNX in `bundle`. Raises ExportError where the files are not the model."""
    # by name: the engine runs without its deployment side
    options = import_module("sfda_export.options").Options(run=str(folder), output=folder / "bundle")
    import_module("sfda_export.to_onnx").to_onnx(options, Console(stderr=True))


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
