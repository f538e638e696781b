"""A tiny world for the engine's own tests: a toy segmenter, a source model of it, a folder of target frames, a config.

Everything is 32x32 and trained for seconds; what it shows is the machinery, not the accuracy.
"""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from sfda_engine.config.loader import load_config
from sfda_engine.config.schema import Config
from sfda_engine.data.datasets import open_target
from sfda_engine.data.images import ImageSize
from sfda_engine.data.scenes.render import render_scene
from sfda_engine.method import steps
from sfda_engine.pipelines import reporting
from sfda_engine.pipelines.inputs import accelerator_for, inputs_of
from sfda_engine.pipelines.networks import load_segmenter
from sfda_engine.pipelines.preparation import prepare
from sfda_engine.pipelines.source_training import train_source
from sfda_engine.pipelines.training import Trainer

ROOT = Path(__file__).parents[2]
SIZE = ImageSize(32, 32)

TOY = """
from torch import nn


class Toy(nn.Module):
    def __init__(self, num_classes, norm):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False), norm(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1, bias=False), norm(16), nn.ReLU(),
        )
        self.head = nn.Conv2d(16, num_classes, 1)

    def forward(self, images):
        return {"out": self.head(self.encoder(images))}


def segmenter(num_classes):
    return Toy(num_classes, nn.BatchNorm2d)


def without_batch_norm(num_classes):
    return Toy(num_classes, lambda channels: nn.GroupNorm(2, channels))


class Flat(Toy):
    def __init__(self, num_classes):
        super().__init__(num_classes, nn.BatchNorm2d)
        self.flat = nn.Flatten()

    def forward(self, images):
        self.flat(images)
        return super().forward(images)


def flat_features(num_classes):
    return Flat(num_classes)
"""

TINY = """
run: {{steps: 3, log_every: 1, checkpoint_every: 2, log_with: none}}
model: {{weights: {weights}, exposure: none}}
target: {{dataset: folder, root: {frames}, size: [32, 32], batch_size: 2}}
method: {{preset: paper, warmup_steps: 2, synthetic_size: [16, 16], patch_grid: 2}}
"""


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Sums in one order whatever the machine: in-process runs and subprocesses then agree bit for bit."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder, on sys.path, of the user module `sfda_toy` with three factories."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "sfda_toy.py").write_text(TOY)
    sys.path.insert(0, str(folder))
    return folder


def write_frames(folder: Path, domain: str, count: int) -> Path:
    """A data set as users have it: images/*.png and labels/*.png of the same stems."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for seed in range(count):
        scene = render_scene(domain, seed, SIZE)
        Image.fromarray(scene.image).save(folder / "images" / f"{domain}_{seed}.png")
        Image.fromarray(scene.label).save(folder / "labels" / f"{domain}_{seed}.png")
    return folder


@pytest.fixture(scope="session")
def night_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled target frames, 32x32."""
    return write_frames(tmp_path_factory.mktemp("night"), "night", 6)


@pytest.fixture(scope="session")
def day_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen labelled source frames, 32x32."""
    return write_frames(tmp_path_factory.mktemp("day"), "day", 16)


@pytest.fixture(scope="session")
def source_config(tmp_path_factory: pytest.TempPathFactory, day_frames: Path, toy_module: Path) -> Path:
    """A YAML file that trains the toy on the day frames."""
    path = tmp_path_factory.mktemp("configs") / "toy_source.yaml"
    path.write_text(
        "run: {steps: 60, log_every: 10, checkpoint_every: 40, log_with: none}\n"
        "model: {arch: 'sfda_toy:segmenter', feature_layer: encoder, classes: scenes}\n"
        f"source: {{root: {day_frames}, size: [32, 32], batch_size: 8}}\n"
    )
    return path


@pytest.fixture(scope="session")
def source_weights(tmp_path_factory: pytest.TempPathFactory, source_config: Path) -> Path:
    """The toy, trained on the day frames."""
    folder = tmp_path_factory.mktemp("source") / "run"
    return train_source(load_config(source_config, ["--run.output", str(folder)])) / "source.safetensors"


@pytest.fixture(scope="session")
def tiny_yaml(tmp_path_factory: pytest.TempPathFactory, source_weights: Path, night_frames: Path) -> Path:
    """A run of two warm-up and three adaptation steps of the toy on the night frames, without labels."""
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(TINY.format(weights=source_weights, frames=night_frames))
    return path


@pytest.fixture
def tiny(tiny_yaml: Path, tmp_path: Path) -> Callable[..., Config]:
    """tiny("--run.steps", "5", ...) -> Config; it writes to tmp_path/run unless told otherwise."""

    def load(*overrides: str) -> Config:
        return load_config(tiny_yaml, ["--run.output", str(tmp_path / "run"), *overrides])

    return load


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapt without figures and report, which cost more than a tiny run itself."""
    for name in ("save_panels", "save_synthetic_panels"):
        monkeypatch.setattr(reporting, name, lambda *arguments: None)
    monkeypatch.setattr(reporting, "write_report", lambda folder: (folder / "report.html").touch())


@pytest.fixture
def trainer(tiny: Callable[..., Config], tmp_path: Path) -> Callable[..., Trainer]:
    """trainer("--run.steps", "5", ...) -> a Trainer that writes to tmp_path/run; `folder=False` writes nothing."""

    def build(*overrides: str, folder: bool = True) -> Trainer:
        config, path = tiny(*overrides), tmp_path / "run" if folder else None
        if path is not None:
            path.mkdir()
        source, info = load_segmenter(config.model)
        accelerator = accelerator_for(config, path)
        inputs = inputs_of(config, accelerator, source.eval(), info, open_target(config.target), path)
        return Trainer(prepare(inputs))

    return build


@pytest.fixture(scope="session")
def start(toy_module: Path) -> Callable[..., subprocess.Popen[str]]:
    """start("-m", "sfda_engine.adapt", ...) -> a Python process of its own, one thread, stdout and stderr piped."""

    def popen(*arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        paths = [str(toy_module), str(ROOT), str(ROOT / "kernels"), str(ROOT / "export")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return popen


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launcher(*options: str) -> list[str]:
    """Arguments of Python for `accelerate launch` with two processes, one a machine where there are two."""
    options = options or ("--num_machines", "1", "--main_process_port", "0")
    fixed = ["--multi_gpu", "--num_processes", "2", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return ["-m", "accelerate.commands.accelerate_cli", "launch", *fixed, *options]


@pytest.fixture
def launch(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str]]:
    """launch("script.py", ...) -> exit code and what two processes on this machine have said; `processes=1` for one."""

    def run(*arguments: str, processes: int = 2) -> tuple[int, str]:
        process = start(*(launcher() if processes == 2 else []), *arguments)
        out, err = process.communicate(timeout=240)
        return process.returncode, out + err

    return run


def break_loss(term: str, good: int, patch: pytest.MonkeyPatch) -> None:
    """Let a loss of `sfda_engine.method.steps` become NaN after `good` calls."""
    calls, true_loss = 0, getattr(steps, term)

    def breaks(*arguments: Any, **options: Any) -> Tensor:
        nonlocal calls
        calls += 1
        loss = true_loss(*arguments, **options)
        return loss * math.nan if calls > good else loss

    patch.setattr(steps, term, breaks)
