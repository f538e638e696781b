"""From a job to what runs: its configuration in the user's place, its number of steps, its folder."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.paper.frames import target_frames
from benchmarks.paper.options import Options, model_words, named, pair
from benchmarks.paper.sources import Training, digest, source_config, source_weights, without_places
from benchmarks.paper.tables import Job
from sfda_engine.config.loader import load_config, resolve_weights
from sfda_engine.config.schema import Config
from sfda_engine.distributed.accelerator import precision
from sfda_engine.errors import UserError
from sfda_engine.models.weights import sha256_of
from sfda_engine.pipelines.objective import total_steps


@dataclass(frozen=True)
class Run:
    """A job with a seed."""

    job: Job
    seed: int


@cache
def run_config(run: Run, options: Options) -> Config:
    """The whole configuration of a run; its schedule is the shipped one unless the user gave steps or epochs."""
    job, task = run.job, run.job.task
    training = Training(task, job.network)
    words = ["--run.seed", str(run.seed), "--run.resume", "true", "--run.log_with", "none"]
    words += ["--model.weights", source_weights(training, options), *model_words(job.network, options)]
    words += ["--model.exposure", task.exposure]
    root = options.roots.get(task.target_root or "")
    if root is not None:
        place = str(root / task.target if task.target_root == "camvid" else root)
        words += ["--target.root", place, "--evaluate.root", place]
    if task.split is not None:
        words += ["--target.split", task.split, "--evaluate.split", task.split]
    if options.size is not None:
        half = (options.size[0] // 2, options.size[1] // 2)
        words += ["--target.size", pair(options.size), "--method.synthetic_size", pair(half)]
    if options.batch is not None:
        words += ["--target.batch_size", str(options.batch)]
    if options.workers is not None:
        words += ["--run.num_workers", str(options.workers)]
    changes = dict(job.changes)
    if changes.get("student_init") == "fresh":  # it learns as its source did
        source = source_config(training, options).source
        assert source is not None
        changes["lr"] = source.lr
    for key, value in changes.items():
        words += [f"--method.{key}", "null" if value is None else str(value)]
    return _scheduled(load_config(named(task.config, job.network), words), options)


def _scheduled(config: Config, options: Options) -> Config:
    """The user's steps or epochs, the generator's warm-up shortened or lengthened with them."""
    if options.steps is None and options.epochs is None:
        return config
    frames = target_frames(config.target)
    wanted = dataclasses.replace(config.run, steps=options.steps, epochs=options.epochs)
    shipped, trial = total_steps(config, frames), total_steps(dataclasses.replace(config, run=wanted), frames)
    method = dataclasses.replace(config.method, warmup_steps=config.method.warmup_steps * trial // shipped)
    return dataclasses.replace(config, run=wanted, method=method)


def run_steps(config: Config) -> int:
    """Updates of the network."""
    return total_steps(config, target_frames(config.target))


def settings(run: Run, options: Options) -> str:
    """What a run would do, in words: rows are comparable where it is equal but for what they compare."""
    config = run_config(run, options)
    assert config.target.size is not None  # every domain states it
    width, height = config.target.size
    source = Path(source_weights(Training(run.job.task, run.job.network), options)).stem
    return (
        f"{run_steps(config)} steps, {width}x{height}, batch {config.target.batch_size}, exposure "
        f"{config.model.exposure}, {precision_of(config)}, source {_source_hash(config)} ({source})"
    )


def run_folder(run: Run, options: Options) -> Path:
    """The folder of a run: another one for everything that would change its result, but for where the data lie."""
    config = run_config(run, options)
    job = run.job
    parts = [repr(without_places(config)), str(run_steps(config)), precision_of(config)]
    if job.method not in ("source_only", "sfda"):
        parts.append(repr(without_places(source_config(Training(job.task, job.network), options))))
    name = f"{job.task.name}.{job.network}.{job.method}.seed{run.seed}"
    parts.append(_source_hash(config))
    return options.output / "runs" / f"{name}.{digest(*parts)}"


def _source_hash(config: Config) -> str:
    try:
        return _hash_of(resolve_weights(config.model.weights))[:8]
    except UserError:
        return "untrained"


@cache
def _hash_of(path: Path) -> str:
    return sha256_of(path)


def precision_of(config: Config) -> str:
    """fp32, bf16 or fp16."""
    chosen = precision(config.run.mixed_precision)
    return "fp32" if chosen == "no" else chosen
