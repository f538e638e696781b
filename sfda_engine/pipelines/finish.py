"""The end of a run, after its last step: scores where labels are given, figures, result.json, report, bundle."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from torch import nn

from sfda_engine.audit.firewall import Firewall
from sfda_engine.audit.manifest import write_manifest
from sfda_engine.config.presets import literal_warnings
from sfda_engine.config.schema import Config
from sfda_engine.data.datasets import open_evaluate
from sfda_engine.evaluate import Evaluation, evaluate_images, print_scores, window_of
from sfda_engine.evaluation.expectation import deviation_warnings
from sfda_engine.files import write_json
from sfda_engine.inspection.examination import Intake, heed
from sfda_engine.inspection.table import intake_json
from sfda_engine.judge.verdict import Judgement, judge
from sfda_engine.method.steps import uses_transfer
from sfda_engine.models.weights import WeightsInfo, load_state, read_weights, save_weights
from sfda_engine.pipelines.memory import peak_memory_mb
from sfda_engine.report import write_report
from sfda_engine.report.panels import save_panels, save_synthetic_panels
from sfda_engine.report.result import Result, as_json
from sfda_engine.report.summary import HELD
from sfda_engine.training.loop import Trainer

log = logging.getLogger(__name__)


def is_finished(config: Config, folder: Path) -> bool:
    """Whether a run has left all that it was to leave; the report and the bundle come last."""
    last = ["result.json", "report.html"] + (["bundle"] if config.run.export else [])
    return all((folder / name).exists() for name in last)


@dataclass(frozen=True)
class Shipped:
    """What `adapted.safetensors` holds; `judgement` None where nothing was judged."""

    network: nn.Module
    info: WeightsInfo
    judgement: Judgement | None


def ship(trainer: Trainer, folder: Path, info: WeightsInfo, adapted_info: WeightsInfo) -> Shipped:
    """Judge the run without labels; write `last.safetensors` and `adapted.safetensors`. All processes judge.

    A student that started fresh is not judged: it is an experiment on what Eq. 12 transfers, and has no BN warm start
    that it would have to beat.
    """
    student = trainer.accelerator.unwrap_model(trainer.networks.student)
    trainer.finish_statistics(student)
    if trainer.accelerator.is_main_process:
        save_weights(folder / "last.safetensors", student, adapted_info)
    judgement, network, shipped_info = None, student, adapted_info
    if trainer.config.method.student_init != "fresh":
        warm_start = copy.deepcopy(student)
        load_state(warm_start, read_weights(folder / "bn_warm_start.safetensors")[0], "bn_warm_start")
        judgement = judge(trainer, warm_start, info)
        network = copy.deepcopy(student)
        network.load_state_dict(judgement.weights)
        shipped_info = dataclasses.replace(adapted_info, exposure=judgement.exposure)
    if trainer.accelerator.is_main_process:
        save_weights(folder / "adapted.safetensors", network, shipped_info)
    return Shipped(network, shipped_info, judgement)


def evaluate_all(
    config: Config,
    accelerator: Accelerator,
    folder: Path,
    source: nn.Module,
    info: WeightsInfo,
    shipped: Shipped,
    adapted_info: WeightsInfo,
) -> dict[str, Evaluation]:
    """Scores of source, BN warm start, adapted and last, where labels are given; opened here for the first time."""
    if config.evaluate is None:
        return {}
    models = {"source": (source, info)}
    for name, described in (("bn_warm_start", adapted_info), ("adapted", shipped.info), ("last", adapted_info)):
        network = copy.deepcopy(shipped.network)
        load_state(network, read_weights(folder / f"{name}.safetensors")[0], name)
        models[name] = (network, described)
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
    scores: dict[str, Evaluation],
    shipped: Shipped,
    intake: Intake,
    wall: Firewall,
) -> dict[str, Any]:
    """Write figures, result.json, manifest.json and report.html; main process alone but for the synthetic images."""
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
            info=shipped.info,
            judgement=shipped.judgement,
            scores=scores,
            steps=trainer.position.adaptation,
            seconds=seconds,
            images_per_second=frames / seconds if seconds else 0.0,
            peak_memory_mb=peak_memory_mb(accelerator.device),
            device=str(accelerator.device),
            source_share=trainer.start.source_share,
            warnings=[*warnings, *heed(intake, refuse=False)],
            intake=intake_json(intake),
            guard=None if trainer.guard is None else trainer.guard.summary(),
        )
    )
    synthetic = trainer.synthesize(6) if uses_transfer(config.method) else None
    if accelerator.is_main_process:
        write_json(folder / "result.json", result)
        source = trainer.networks.source
        save_panels(folder, config, trainer.target, source, info, shipped.network, shipped.info)
        if synthetic is not None:
            save_synthetic_panels(folder, synthetic, source, info)
        wall.end(trainer.position.adaptation)
        digest = write_manifest(folder, config, result)
        write_report(folder)
        console = Console()
        if scores:
            print_scores(scores, console)
        told = f"manifest: sha256 {digest}; sfda certify {folder} re-checks it\nreport: {folder / 'report.html'}"
        console.print(f"{verdict_line(result)}\n{told}", soft_wrap=True, markup=False)
    return result


def verdict_line(result: Mapping[str, Any]) -> str:
    """What `adapted.safetensors` holds, and why."""
    if "selection" not in result:
        return "verdict: none, since a fresh student is not judged; adapted.safetensors holds the last weights"
    held = HELD.get(result["verdict"], f"the weights after step {result['selection']['step']}")
    return f"verdict: {result['verdict']}; adapted.safetensors holds {held}: {result['verdict_basis']}"


def export_bundle(folder: Path) -> None:
    """`run.export`: the adapted model as ONNX in `bundle`. Raises ExportError where the files are not the model."""
    # by name: the engine runs without its deployment side
    options = import_module("sfda_export.options").Options(run=str(folder), output=folder / "bundle")
    import_module("sfda_export.to_onnx").to_onnx(options, Console(stderr=True))
