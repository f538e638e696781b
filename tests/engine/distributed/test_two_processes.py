"""Whole runs in two processes, by `accelerate launch`, against one process with the same global batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sfda_engine.run_folder.checkpoint import list_checkpoints
from sfda_engine.training.metrics import read_metrics
from tests.engine.conftest import free_port, launcher

Launch = Callable[..., tuple[int, str]]
Start = Callable[..., subprocess.Popen[str]]

DOUBLE = str(Path(__file__).with_name("double_precision.py"))
# everything on: class weights of pseudo-labels over the batch, ClassMix, patches, transfer
EVERYTHING = [
    *("--run.steps", "10", "--method.warmup_steps", "3", "--target.batch_size", "8"),
    *("--method.pseudo_label_weight", "1"),
]


def losses(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if "/" in key} for line in read_metrics(run / "metrics.jsonl")]


def furthest(one: Path, other: Path, name: str) -> float:
    """Largest absolute difference between two weights files."""
    weights, others = load_file(one / name), load_file(other / name)
    assert weights.keys() == others.keys()
    return max(float((weights[key].double() - others[key].double()).abs().max()) for key in weights)


def assert_equal_losses(
    one: Path, other: Path, rel: float, *, first: float | None = None, rounding: float = 1e-12
) -> None:
    """Every term of 13 steps to `rel`, those of the first four to `first`, before rounding errors have grown.

    `rounding` is absolute: terms that compare student and source are differences of near equals.
    """
    lines, others = losses(one), losses(other)
    assert len(lines) == len(others) == 13
    for step, (line, theirs) in enumerate(zip(lines, others, strict=True)):
        assert theirs == pytest.approx(line, rel=first if first and step < 4 else rel, abs=rounding), f"line {step}"


@pytest.mark.slow
def test_float64_run_is_equal_to_one_process(
    launch: Launch, tiny_yaml: Path, night_frames: Path, tmp_path: Path
) -> None:
    """Ten full steps at the default learning rates; labels scored by both, each frame once; one folder, one report."""
    argv = [DOUBLE, "adapt", "--config", str(tiny_yaml), *EVERYTHING, "--evaluate.root", str(night_frames)]
    one, two = tmp_path / "one", tmp_path / "two"
    for processes, folder in ((1, one), (2, two)):
        code, said = launch(*argv, "--run.output", str(folder), processes=processes)
        assert code == 0, said
        assert said.count("report: ") == 1
    assert_equal_losses(one, two, 1e-5, first=1e-9, rounding=1e-7)
    assert furthest(one, two, "bn_warm_start.safetensors") == 0
    assert furthest(one, two, "last.safetensors") < 1e-7
    alone, together = (json.loads((folder / "result.json").read_text()) for folder in (one, two))
    for key in ("miou", "miou_training_size", "iou", "evaluated_frames", "steps"):
        assert together[key] == alone[key]
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}


@pytest.mark.slow
def test_fp32_run_on_two_machines_is_equal_to_one_process(
    start: Start, launch: Launch, tiny_yaml: Path, tmp_path: Path
) -> None:
    """Two launchers that meet over the network, as on two machines; the generator slow, see `double_precision`."""
    argv = ["-m", "sfda_engine.adapt", "--config", str(tiny_yaml), *EVERYTHING, "--method.generator_lr", "1e-6"]
    one, two = tmp_path / "one", tmp_path / "two"
    code, said = launch(*argv, "--run.output", str(one), processes=1)
    assert code == 0, said
    machines = ["--num_machines", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    started = [
        start(*launcher(*machines, "--machine_rank", str(rank)), *argv, "--run.output", str(two)) for rank in (0, 1)
    ]
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert_equal_losses(one, two, 1e-5, rounding=5e-6)
    assert furthest(one, two, "last.safetensors") < 1e-5


@pytest.mark.slow
def test_float64_source_training_is_equal_to_one_process(launch: Launch, source_config: Path, tmp_path: Path) -> None:
    argv = [DOUBLE, "train_source", "--config", str(source_config), "--run.steps", "13", "--run.log_every", "1"]
    one, two = tmp_path / "one", tmp_path / "two"
    for processes, folder in ((1, one), (2, two)):
        code, said = launch(*argv, "--run.output", str(folder), processes=processes)
        assert code == 0, said
    assert_equal_losses(one, two, 1e-9)
    assert furthest(one, two, "source.safetensors") < 1e-9


def ranks(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a launcher has started, first rank first."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return sorted(int(child) for child in children)


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path, every: float = 0.05) -> None:
    ends = time.monotonic() + 120
    while not list_checkpoints(run):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ends
        time.sleep(every)


@pytest.mark.slow
# looked at often, the checkpoint is seen while the others still wait for the main process
@pytest.mark.parametrize(("rank", "every"), [(0, 0.05), (1, 0.05), (0, 0.0005)])
def test_process_that_dies_ends_the_job_and_leaves_a_good_checkpoint(
    rank: int, every: float, start: Start, launch: Launch, tiny_yaml: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    argv = ["-m", "sfda_engine.adapt", "--config", str(tiny_yaml), "--run.output", str(run)]
    process = start(*launcher(), *argv, "--run.steps", "5000", "--run.checkpoint_every", "10")
    wait_for_checkpoint(process, run, every)
    both = ranks(process)
    os.kill(both[rank], signal.SIGKILL)
    _, said = process.communicate(timeout=90)  # the launcher gives the others 30 s to end
    assert process.returncode == 1
    assert "training failed: " in said
    assert "--run.resume true" in said
    assert not any(Path(f"/proc/{pid}").exists() for pid in both)
    newest = list_checkpoints(run)[-1]
    weights = load_file(newest / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values() if value.dtype == torch.float32)


@pytest.mark.slow
def test_signal_to_one_process_stops_all_after_the_same_step(start: Start, tiny_yaml: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = ["-m", "sfda_engine.adapt", "--config", str(tiny_yaml), "--run.output", str(run)]
    process = start(*launcher(), *argv, "--run.steps", "5000", "--run.checkpoint_every", "10")
    wait_for_checkpoint(process, run)
    os.kill(ranks(process)[1], signal.SIGTERM)
    _, said = process.communicate(timeout=90)
    # the first to leave says so; the launcher may end the other before it can
    assert any(line.startswith("interrupted") and str(run) in line for line in said.splitlines()), said
    lines = read_metrics(run / "metrics.jsonl")
    assert lines[-1]["total_step"] == int(list_checkpoints(run)[-1].name)
