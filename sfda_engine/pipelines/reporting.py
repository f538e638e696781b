"""Last stage of a run: figures, result.json, manifest.json, report.html, and the bundle where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from sfda_engine.audit.firewall import Firewall
from sfda_engine.audit.manifest import write_manifest
from sfda_engine.config.presets import literal_warnings
from sfda_engine.config.schema import Config
from sfda_engine.data.datasets import open_evaluate
from sfda_engine.data.images import stated
from sfda_engine.evaluation.scores import print_scores
from sfda_engine.files import write_json
from sfda_engine.inspection.examination import Intake, heed
from sfda_engine.inspection.table import intake_json
from sfda_engine.pipelines.cost import peak_memory_mb
from sfda_engine.pipelines.judging import Shipped
from sfda_engine.pipelines.scoring import Scores, deviations
from sfda_engine.pipelines.training import Trainer
from sfda_engine.report.html import write_report
from sfda_engine.report.panels import save_panels, save_synthetic_panels
from sfda_engine.report.result import Result, as_json
from sfda_engine.report.summary import held


def is_finished(config: Config, folder: Path) -> bool:
    """Whether a run has left all that it was to leave; the report and the bundle come last."""
    last = ["result.json", "report.html"] + (["bundle"] if config.run.export else [])
    return all((folder / name).exists() for name in last)


def report(trainer: Trainer, shipped: Shipped, scores: Scores, intake: Intake, wall: Firewall) -> dict[str, Any]:
    """Write what a run leaves; returns the content of result.json. All processes draw synthetic images, one writes."""
    inputs = trainer.inputs
    folder, config = inputs.folder, inputs.config
    assert folder is not None
    result = result_of(trainer, shipped, scores, intake)
    synthetic = trainer.synthesize(6) if trainer.objective.uses_transfer else None
    if inputs.accelerator.is_main_process:
        write_json(folder / "result.json", result)
        save_frames(trainer, shipped)
        if synthetic is not None:
            save_synthetic_panels(folder, synthetic, trainer.networks.source, inputs.info)
        wall.end(result["steps"])
        digest = write_manifest(folder, config, result)
        write_report(folder)
        console = Console()
        if scores:
            print_scores(scores, console)
        told = f"manifest: sha256 {digest}; sfda certify {folder} re-checks it\nreport: {folder / 'report.html'}"
        console.print(f"{verdict_line(result)}\n{told}", soft_wrap=True, markup=False)
    return result


def save_frames(trainer: Trainer, shipped: Shipped) -> None:
    """Pictures of frames, of labelled ones where labels are given: what source and shipped model say of them."""
    inputs, wanted = trainer.inputs, trainer.inputs.config.evaluate
    size = stated(inputs.config.target.size)
    assert inputs.folder is not None
    assert size is not None
    save_panels(
        inputs.folder,
        inputs.target,
        open_evaluate(wanted, class_names=inputs.info.class_names, size=size) if wanted else None,
        size,
        inputs.config.method.patch_grid,
        trainer.networks.source,
        inputs.info,
        shipped.network,
        shipped.info,
    )


def result_of(trainer: Trainer, shipped: Shipped, scores: Scores, intake: Intake) -> dict[str, Any]:
    """The content of result.json."""
    inputs = trainer.inputs
    config, position = inputs.config, trainer.loop.position
    warnings = literal_warnings(config.method)
    if scores and config.evaluate is not None:
        warnings += deviations(config.evaluate, scores["source"].own_size.miou)
    frames = position.total * config.target.batch_size * config.run.gradient_accumulation
    return as_json(
        Result(
            name=config.name,
            preset=config.method.preset,
            seed=config.run.seed,
            expected_source_miou=config.evaluate.expected_source_miou if config.evaluate else None,
            info=shipped.info,
            verdict=shipped.verdict,
            scores=scores,
            steps=position.done("adaptation"),
            seconds=position.seconds,
            images_per_second=frames / position.seconds if position.seconds else 0.0,
            peak_memory_mb=peak_memory_mb(inputs.accelerator.device),
            device=str(inputs.accelerator.device),
            choice=trainer.start.choice,
            warnings=[*warnings, *heed(intake, refuse=False)],
            intake=intake_json(intake),
            guard=None if trainer.loop.guard is None else trainer.loop.guard.summary(),
        )
    )


def verdict_line(result: Mapping[str, Any]) -> str:
    """What `adapted.safetensors` holds, and why."""
    return f"verdict: {result['verdict']}; adapted.safetensors holds {held(result)}: {result['verdict_basis']}"


def export_bundle(folder: Path) -> None:
    """`run.export`: the adapted model as ONNX in `bundle`. Raises ExportError where the files are not the model."""
    # by name: the engine runs without its deployment side
    options = import_module("sfda_export.options").Options(run=str(folder), output=folder / "bundle")
    import_module("sfda_export.to_onnx").to_onnx(options, Console(stderr=True))
