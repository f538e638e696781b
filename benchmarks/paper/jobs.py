"""From a job to what runs: the configurations of its source and its target, its number of steps, its folder."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.paper.domains import ARCHITECTURES, Domain, Task
from benchmarks.paper.tables import Job
from sfda_engine.config.loader import load_config, resolve_weights
from sfda_engine.config.schema import Config, SourceConfig, TargetConfig
from sfda_engine.data.datasets import LAYOUTS, SCENE_FRAMES, target_paths
from sfda_engine.data.published.layout import pairs_of
from sfda_engine.distributed.accelerator import precision
from sfda_engine.errors import UserError
from sfda_engine.models.weights import sha256_of
from sfda_engine.pipelines.objective import total_steps

NO_CAMVID = "domain camvid needs --camvid-root DIR, the folder that holds day_train/, day_val/ and dusk/"


@dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """What the user chose; one object a command, so that configurations are read once for it."""

    domain: Domain
    output: Path
    roots: dict[str, Path] = field(default_factory=dict)
    """Data root by name."""
    sources: dict[str, Path] = field(default_factory=dict)
    """Source model by recipe, where it need not be trained."""
    backbones: dict[str, str] = field(default_factory=dict)
    """`model.backbone_weights` by network."""
    download: bool = False
    """Let ImageNet weights be downloaded."""
    steps: int | None = None
    epochs: int | None = None
    source_steps: int | None = None
    size: tuple[int, int] | None = None
    batch: int | None = None
    workers: int | None = None
    """Loader processes."""


@dataclass(frozen=True)
class Training:
    """The training of one source model."""

    task: Task
    network: str

    @property
    def recipe(self) -> str:
        """The shipped configuration."""
        return named(self.task.recipe, self.network)


@dataclass(frozen=True)
class Run:
    """A job with a seed."""

    job: Job
    seed: int


def named(config: str, network: str) -> str:
    """The name of a configuration for one network: those of SegNet end in its name."""
    return f"{config}_segnet" if network == "segnet" else config


@cache
def source_config(training: Training, options: Options) -> Config:
    """The recipe of a source model in the user's place, its labelled and its held-out frames."""
    task = training.task
    words = ["--evaluate", "null", "--run.resume", "true", "--run.log_with", "none", *_model(training.network, options)]
    root = options.roots.get(task.source_root or "")
    if task.source_root == "camvid" and root is not None:
        words += ["--source.root", str(root / "day_train"), "--source.val_root", str(root / "day_val")]
    elif root is not None:
        words += ["--source.root", str(root)]
    if options.size is not None:
        words += ["--source.size", _pair(options.size)]
    if options.batch is not None:
        words += ["--source.batch_size", str(options.batch)]
    if options.workers is not None:
        words += ["--run.num_workers", str(options.workers)]
    if options.source_steps is not None:
        words += ["--run.epochs", "null", "--run.steps", str(options.source_steps)]
    return load_config(training.recipe, words)


def source_folder(training: Training, options: Options) -> Path:
    """The run folder of a source model that is trained here."""
    config = source_config(training, options)
    digest = _digest(repr(_without_places(config)))
    return options.output / "sources" / f"{training.recipe}.{digest}"


def source_weights(training: Training, options: Options) -> str:
    """The file of a source model, which need not exist yet: shipped, the user's, or trained here."""
    if training.recipe in options.sources:
        return str(options.sources[training.recipe])
    return training.task.weights or str(source_folder(training, options) / "source.safetensors")


def is_trained(training: Training, options: Options) -> bool:
    """Whether the source model is there."""
    weights = source_weights(training, options)
    return weights.startswith("package:") or Path(weights).is_file()


@cache
def run_config(run: Run, options: Options) -> Config:
    """The whole configuration of a run; its schedule is the shipped one unless the user gave steps or epochs."""
    job, task = run.job, run.job.task
    training = Training(task, job.network)
    words = ["--run.seed", str(run.seed), "--run.resume", "true", "--run.log_with", "none"]
    words += ["--model.weights", source_weights(training, options), *_model(job.network, options)]
    root = options.roots.get(task.target_root or "")
    if root is not None:
        place = str(root / task.target if task.target_root == "camvid" else root)
        words += ["--target.root", place, "--evaluate.root", place]
    if task.split is not None:
        words += ["--target.split", task.split, "--evaluate.split", task.split]
    if options.size is not None:
        half = (options.size[0] // 2, options.size[1] // 2)
        words += ["--target.size", _pair(options.size), "--method.synthetic_size", _pair(half)]
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


def training_steps(config: Config) -> int:
    """Updates of a source model."""
    source = config.source
    assert source is not None
    if config.run.epochs is None:
        return config.run.steps or 0
    return math.ceil(config.run.epochs * source_frames(source) / source.batch_size)


@cache
def target_frames(target: TargetConfig) -> int:
    """Number of target frames; without a root that of the published data set."""
    if target.dataset == "scenes":
        return target.frames or SCENE_FRAMES["target"]
    if target.root is None:
        if target.dataset not in LAYOUTS:
            raise UserError(NO_CAMVID)
        return _published(LAYOUTS[target.dataset].splits, LAYOUTS[target.dataset].unions, target.split)
    return len(target_paths(target))


@cache
def source_frames(source: SourceConfig) -> int:
    """Number of labelled source frames; without a root that of the published data set."""
    if source.dataset == "scenes":
        return source.frames or SCENE_FRAMES["source"]
    if source.dataset == "folder":
        return target_frames(TargetConfig(root=source.root, split=source.split))
    layout = LAYOUTS[source.dataset]
    if source.root is None:
        return _published(layout.labelled, layout.unions, source.split)
    return len(pairs_of(layout, Path(source.root), source.split)[: source.frames])


def _published(splits: Any, unions: Any, split: str | None) -> int:
    split = split or "all"
    return sum(splits[part] or 0 for part in unions.get(split, (split,)))


def settings(run: Run, options: Options) -> str:
    """What a run would do, in words: rows are comparable where it is equal but for what they compare."""
    config = run_config(run, options)
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
    parts = [repr(_without_places(config)), str(run_steps(config)), precision_of(config)]
    if job.method not in ("source_only", "sfda"):
        parts.append(repr(_without_places(source_config(Training(job.task, job.network), options))))
    digest = _digest("\n".join([*parts, _source_hash(config)]))
    return options.output / "runs" / f"{job.task.name}.{job.network}.{job.method}.seed{run.seed}.{digest}"


def _without_places(config: Config) -> Config:
    """The configuration without paths, and without what does not change a result."""
    run = dataclasses.replace(config.run, output=None, checkpoint_every=1, keep_last=1, log_every=1, num_workers=0)
    model = dataclasses.replace(config.model, weights=None, download=False)
    target = dataclasses.replace(config.target, root=None)
    source = config.source and dataclasses.replace(config.source, root=None, val_root=None)
    return dataclasses.replace(config, run=run, model=model, target=target, source=source, evaluate=None)


def _source_hash(config: Config) -> str:
    try:
        return _hash_of(resolve_weights(config.model.weights))[:8]
    except UserError:
        return "untrained"


@cache
def _hash_of(path: Path) -> str:
    return sha256_of(path)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _model(network: str, options: Options) -> list[str]:
    words = ["--model.download", "true"] if options.download else []
    if network in options.backbones:
        words += ["--model.backbone_weights", options.backbones[network]]
    return words


def _pair(size: tuple[int, int]) -> str:
    return f"[{size[0]}, {size[1]}]"


def precision_of(config: Config) -> str:
    """fp32, bf16 or fp16."""
    chosen = precision(config.run.mixed_precision)
    return "fp32" if chosen == "no" else chosen


def architecture(network: str) -> str:
    """`model.arch` of a network."""
    return ARCHITECTURES[network]
