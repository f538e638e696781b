"""The source models: the recipe of each in the user's place, its number of steps, its folder and its file."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.paper.domains import Task
from benchmarks.paper.frames import source_frames
from benchmarks.paper.options import Options, model_words, named, pair
from sfda_engine.config.loader import load_config
from sfda_engine.config.schema import Config


@dataclass(frozen=True)
class Training:
    """The training of one source model."""

    task: Task
    network: str

    @property
    def recipe(self) -> str:
        """The shipped configuration."""
        return named(self.task.recipe, self.network)


@cache
def source_config(training: Training, options: Options) -> Config:
    """The recipe of a source model in the user's place, its labelled and its held-out frames."""
    task = training.task
    words = ["--evaluate", "null", "--run.resume", "true", "--run.log_with", "none"]
    words += model_words(training.network, options)
    root = options.roots.get(task.source_root or "")
    if task.source_root == "camvid" and root is not None:
        words += ["--source.root", str(root / "day_train"), "--source.val_root", str(root / "day_val")]
    elif root is not None:
        words += ["--source.root", str(root)]
    if options.size is not None:
        words += ["--source.size", pair(options.size)]
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
    return options.output / "sources" / f"{training.recipe}.{digest(repr(without_places(config)))}"


def source_weights(training: Training, options: Options) -> str:
    """The file of a source model, which need not exist yet: shipped, the user's, or trained here."""
    if training.recipe in options.sources:
        return str(options.sources[training.recipe])
    return training.task.weights or str(source_folder(training, options) / "source.safetensors")


def is_trained(training: Training, options: Options) -> bool:
    """Whether the source model is there."""
    weights = source_weights(training, options)
    return weights.startswith("package:") or Path(weights).is_file()


def training_steps(config: Config) -> int:
    """Updates of a source model."""
    source = config.source
    assert source is not None
    if config.run.epochs is None:
        return config.run.steps or 0
    return math.ceil(config.run.epochs * source_frames(source) / source.batch_size)


def without_places(config: Config) -> Config:
    """The configuration without paths, and without what does not change a result."""
    run = dataclasses.replace(config.run, output=None, checkpoint_every=1, keep_last=1, log_every=1, num_workers=0)
    model = dataclasses.replace(config.model, weights=None, download=False)
    target = dataclasses.replace(config.target, root=None)
    source = config.source and dataclasses.replace(config.source, root=None, val_root=None)
    return dataclasses.replace(config, run=run, model=model, target=target, source=source, evaluate=None)


def digest(*parts: str) -> str:
    """What tells folders apart."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
