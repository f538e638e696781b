"""kill -9 at random moments of every phase: the run that goes on ends bit-equal to one that was never killed."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import ROOT
from tests.engine.run_folder.killing import ANY, PHASES, Kill, Seconds, leavings, run

KILLED = -9


@pytest.fixture(autouse=True, scope="module")
def importable(toy_module: Path) -> Iterator[None]:
    """The process that forks the killed ones finds the engine and the toy, and sums in one order."""
    paths = [str(toy_module), *(str(ROOT / name) for name in ("", "kernels", "export"))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def adapt_argv(tiny_yaml: Path, night_frames: Path) -> list[str]:
    """Every phase that an adaptation can have; log lines and checkpoints fall on different steps."""
    options = {"run.steps": "5", "run.log_every": "3", "run.keep_last": "2", "method.warmup_steps": "3"}
    options |= {"method.pseudo_label_weight": "1", "evaluate.root": str(night_frames)}
    return ["--config", str(tiny_yaml), *(word for key, value in options.items() for word in (f"--{key}", value))]


@pytest.fixture(scope="module")
def source_argv(source_config: Path, night_frames: Path) -> list[str]:
    options = ["--run.steps", "12", "--run.checkpoint_every", "5", "--source.val_root", str(night_frames)]
    return ["--config", str(source_config), *options]


def draw_kill(phase: str, seconds: Seconds, calls: int, generator: random.Random) -> Kill:
    """A random moment of one of the first `calls` calls, by how long they took in the run that was not killed."""
    call = generator.randint(1, calls)
    return Kill(phase, call, generator.uniform(0, seconds[phase][call - 1]))


def check_kills(command: str, argv: list[str], phases: list[tuple[str, int]], seed: int, folder: Path) -> None:
    """Kill one run in each of the phases in turn, go on each time, and compare the end with the whole run's."""
    whole, halves, log = folder / "whole", folder / "halves", folder / "log.txt"
    code, seconds = run(command, [*argv, "--run.output", str(whole)], log)
    assert code == 0, log.read_text()
    assert seconds.keys() == PHASES[command].keys() | {ANY}
    generator = random.Random(seed)
    going_on = [*argv, "--run.output", str(halves), "--run.resume", "true"]
    for phase, calls in phases:
        kill = draw_kill(phase, seconds, calls, generator)
        assert run(command, going_on, log, kill)[0] == KILLED, f"{kill}\n{log.read_text()}"
    assert run(command, going_on, log)[0] == 0, log.read_text()
    assert leavings(halves) == leavings(whole)
    assert leavings(halves)["strays"] == []


@pytest.mark.slow
def test_fourteen_kills_in_a_row(adapt_argv: list[str], tmp_path: Path) -> None:
    phases = [("choosing the view", 1), ("pseudo-labels", 1), ("saving the start", 1), ("generator warm-up", 2)]
    phases += [
        ("checkpoint", 1),
        ("adaptation", 2),
        ("guard", 2),
        ("checkpoint", 2),
        ("selection", 1),
        ("shipping", 2),
        ("evaluation", 1),
        ("figures", 1),
        ("manifest", 1),
        ("report", 1),
    ]
    check_kills("adapt", adapt_argv, phases, seed=0, folder=tmp_path)


def test_kills_at_any_moment(adapt_argv: list[str], tmp_path: Path) -> None:
    check_kills("adapt", adapt_argv, [("checkpoint", 1), (ANY, 1), (ANY, 1)], 1, tmp_path)


def test_kills_of_source_training(source_argv: list[str], tmp_path: Path) -> None:
    check_kills("train_source", source_argv, [("training", 8), ("checkpoint", 1)], 2, tmp_path)
