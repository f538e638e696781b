"""One run, in this process: train a source model, or adapt and score. Labels are opened after the last step.

A run's folder holds `config.yaml`, the network it left (`adapted.safetensors`), where there was a generator some of its
samples (`synthetic.safetensors`), and last of all `score.json`: with it the run is done.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from benchmarks.common.machine import provenance
from benchmarks.common.methods.run import adapt, open_domain, with_source
from benchmarks.common.methods.source_driven import SOURCE_DRIVEN
from benchmarks.common.methods.source_only import source_only
from benchmarks.common.methods.target import Method, Target
from benchmarks.paper.jobs import Run, run_config, run_folder, run_steps, settings
from benchmarks.paper.options import Options
from benchmarks.paper.sources import Training, source_config, source_folder
from sfda_engine.config.loader import save_config
from sfda_engine.config.schema import Config
from sfda_engine.data.datasets import open_evaluate, open_source
from sfda_engine.evaluation.scores import as_json
from sfda_engine.evaluation.scoring import evaluate_images
from sfda_engine.files import whole_file, write_json
from sfda_engine.models.weights import WeightsInfo, save_weights
from sfda_engine.pipelines.cost import peak_memory_mb
from sfda_engine.pipelines.inputs import inputs_of
from sfda_engine.pipelines.preparation import prepare
from sfda_engine.pipelines.source_training import train_source
from sfda_engine.pipelines.training import Trainer

SCORE = "score.json"
SAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Adapted:
    """What an adaptation left."""

    network: nn.Module
    steps: int
    seconds: float
    note: str = ""
    synthetic: torch.Tensor | None = None
    """(n, 3, h, w) samples of the generator, as the network takes them."""


def train(training: Training, options: Options) -> None:
    """Train a source model, from its newest checkpoint where it was stopped."""
    config = source_config(training, options)
    folder = source_folder(training, options)
    train_source(dataclasses.replace(config, run=dataclasses.replace(config.run, output=str(folder))))
    tidy(folder)


def perform(run: Run, options: Options) -> None:
    """Adapt, score, and leave the run's folder. Raises UserError for bad input, TrainingError where a loss is NaN."""
    folder, config = run_folder(run, options), run_config(run, options)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, output=str(folder)))
    source, info, target = open_domain(config, steps=run_steps(config), seed=run.seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, folder / "config.yaml")
    if run.job.method == "sfda":
        adapted = adapt_engine(config, source, info, target, folder)
    else:
        adapted = adapt_peer(run, source, info, target, options)
    memory = peak_memory_mb(target.accelerator.device)
    save_weights(folder / "adapted.safetensors", adapted.network, target.info)
    if adapted.synthetic is not None:
        with whole_file(folder / "synthetic.safetensors") as temporary:
            # not save_file, which makes a file that only its owner can read
            temporary.write_bytes(save({"synthetic": adapted.synthetic.detach().cpu().contiguous()}))
    content = {
        "task": run.job.task.name,
        "network": run.job.network,
        "method": run.job.method,
        "changes": dict(run.job.changes),
        "seed": run.seed,
        "settings": settings(run, options),
        "steps": adapted.steps,
        "seconds": round(adapted.seconds, 3),
        "peak_memory_mb": round(memory, 1),
        "note": adapted.note,
        "scores": scores(run, config, adapted.network, info, target, options),
        **provenance(),
    }
    write_json(folder / SCORE, content)
    tidy(folder)


def tidy(folder: Path) -> None:
    """Remove what only a resumed run needs: hundreds of MB a run."""
    for name in ("checkpoints", "start"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "bn_warm_start.safetensors").unlink(missing_ok=True)


def adapt_engine(config: Config, source: nn.Module, info: WeightsInfo, target: Target, folder: Path) -> Adapted:
    """The engine's trainer, from its newest checkpoint where it was stopped."""
    since = time.perf_counter()
    inputs = inputs_of(config, target.accelerator, source, info, target.images, folder)
    trainer = Trainer(prepare(inputs))
    prepared = time.perf_counter() - since
    trainer.run()
    student = target.accelerator.unwrap_model(trainer.networks.student)
    trainer.finish_statistics(student)
    samples = trainer.synthesize(SAMPLES) if trainer.objective.uses_transfer else None
    return Adapted(
        student, trainer.loop.position.done("adaptation"), prepared + trainer.loop.position.seconds, synthetic=samples
    )


def adapt_peer(run: Run, source: nn.Module, info: WeightsInfo, target: Target, options: Options) -> Adapted:
    """A method of `benchmarks.common.methods`; the source-driven ones get the labelled source frames."""
    method: Method = source_only
    if run.job.method != "source_only":
        recipe = source_config(Training(run.job.task, run.job.network), options)
        method = with_source(SOURCE_DRIVEN[run.job.method], recipe, info)
    left = adapt(method, source, target, limit=math.inf)
    network = copy.deepcopy(source)
    network.load_state_dict(left.snapshots[left.steps])
    made = 0 if run.job.method == "source_only" else left.steps
    return Adapted(network, made, left.seconds, left.note)


def scores(
    run: Run, config: Config, network: nn.Module, info: WeightsInfo, target: Target, options: Options
) -> dict[str, Any]:
    """Scores on the target and, of a network that Table 4 asks about, on held-out frames of the source.

    Those see the frames as the source model does, without the target's exposure correction.
    """
    assert config.evaluate is not None
    labelled = open_evaluate(config.evaluate, class_names=info.class_names, size=target.size)
    found = evaluate_images(network, target.info, labelled, target.size, target.accelerator, config.evaluate.subset)
    result = {"target": as_json(found)}
    if run.job.method == "source_only" or config.method.student_init == "fresh":
        source = source_config(Training(run.job.task, run.job.network), options).source
        assert source is not None
        held_out = open_source(source, class_names=info.class_names, validate=True)
        result["source"] = as_json(evaluate_images(network, info, held_out, target.size, target.accelerator))
    return result
