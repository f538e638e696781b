"""Ctrl-C writes a checkpoint and leaves with 130; the resumed run ends bit-equal to one that was never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfda_engine.adapt import main
from sfda_engine.exit_codes import exit_code
from sfda_engine.pipelines.training import Trainer
from sfda_engine.run_folder.checkpoint import list_checkpoints
from sfda_engine.training.metrics import Metrics

Start = Callable[..., subprocess.Popen[str]]
LAST = "last.safetensors"


def numbers(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what a clock decides."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def send_after(monkeypatch: pytest.MonkeyPatch, method: str, calls: int, signals: list[signal.Signals]) -> None:
    """Send signals to this process in the middle of the given call of a method of the trainer or of its metrics."""
    owner = Trainer if hasattr(Trainer, method) else Metrics
    true, count = getattr(owner, method), 0

    def step(self: Trainer | Metrics, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count == calls:
            for number in signals:
                os.kill(os.getpid(), number)
        return true(self, *arguments)

    monkeypatch.setattr(owner, method, step)


@pytest.mark.parametrize(
    ("method", "calls", "sent", "checkpoint", "options"),
    [
        ("adapt_on", 2, signal.SIGINT, "0000004", []),
        ("warm_up_on", 1, signal.SIGTERM, "0000001", []),
        ("adapt_on", 3, signal.SIGINT, "0000004", ["--run.gradient_accumulation", "2"]),
        ("adapt_on", 1, signal.SIGINT, "0000001", ["--method.student_init", "fresh"]),
        ("adapt_on", 2, signal.SIGINT, "0000004", ["--method.pseudo_label_weight", "1"]),
        ("write", 1, signal.SIGINT, "0000002", []),  # while a step without a checkpoint of its own is logged
        ("write", 2, signal.SIGINT, "0000002", []),  # at the end of a phase
        ("write", 5, signal.SIGINT, "0000005", []),  # at the very end
    ],
)
def test_resumed_run_is_bit_equal(
    method: str,
    calls: int,
    sent: signal.Signals,
    checkpoint: str,
    options: list[str],
    tiny_yaml: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    quick: None,
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    argv = ["--config", str(tiny_yaml), *options, "--run.output"]
    handler = signal.getsignal(signal.SIGINT)  # a shell's background job ignores it
    assert exit_code(main, [*argv, str(whole)]) == 0

    with monkeypatch.context() as patch:
        send_after(patch, method, calls, [sent])
        assert exit_code(main, [*argv, str(halves)]) == 130
    assert "--run.resume true" in capsys.readouterr().err
    assert list_checkpoints(halves)[-1].name == checkpoint
    assert not (halves / LAST).exists()
    assert signal.getsignal(signal.SIGINT) is handler

    assert exit_code(main, [*argv, str(halves), "--run.resume", "true"]) == 0
    assert (halves / LAST).read_bytes() == (whole / LAST).read_bytes()
    # an interrupted run logs one line more, at the step it stopped; with one line a step there is none
    assert numbers(halves) == numbers(whole)


def test_second_ctrl_c_stops_at_once(
    tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    send_after(monkeypatch, "adapt_on", 2, [signal.SIGINT, signal.SIGINT])
    run = tmp_path / "run"
    assert exit_code(main, ["--config", str(tiny_yaml), "--run.output", str(run)]) == 130
    assert list_checkpoints(run)[-1].name == "0000002"  # no step, no checkpoint since


def test_resume_from_nothing_starts_from_the_beginning(tiny_yaml: Path, tmp_path: Path, quick: None) -> None:
    argv = ["--config", str(tiny_yaml), "--run.output"]
    for folder in (plain := tmp_path / "plain", resumed := tmp_path / "resumed"):
        assert exit_code(main, [*argv, str(folder), "--run.resume", str(folder is resumed).lower()]) == 0
    assert (plain / LAST).read_bytes() == (resumed / LAST).read_bytes()


def test_resume_of_a_finished_run_touches_nothing(
    tiny_yaml: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, quick: None
) -> None:
    run = tmp_path / "run"
    argv = ["--config", str(tiny_yaml), "--run.output", str(run)]
    assert exit_code(main, argv) == 0
    before = {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in run.rglob("*")}
    assert exit_code(main, [*argv, "--run.resume", "true"]) == 0
    assert "finished; nothing to resume" in caplog.text
    assert before == {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in run.rglob("*")}


def test_half_written_checkpoint_is_passed_over(tiny_yaml: Path, tmp_path: Path, quick: None) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    argv = ["--config", str(tiny_yaml), "--run.output"]
    assert exit_code(main, [*argv, str(whole)]) == 0
    assert exit_code(main, [*argv, str(halves)]) == 0
    # as a kill would leave it: no result, the newest checkpoint under its temporary name
    (halves / "result.json").unlink()
    newest = list_checkpoints(halves)[-1]
    newest.rename(newest.with_name(f".partial-{newest.name}"))
    assert exit_code(main, [*argv, str(halves), "--run.resume", "true"]) == 0
    assert (halves / LAST).read_bytes() == (whole / LAST).read_bytes()
    assert numbers(halves) == numbers(whole)


def test_another_configuration_is_the_users_mistake(
    tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick: None
) -> None:
    argv = ["--config", str(tiny_yaml), "--run.output", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        send_after(patch, "adapt_on", 2, [signal.SIGINT])
        assert exit_code(main, argv) == 130
    begun = (tmp_path / "run" / "config.yaml").read_text()
    other = ["--method.patch_grid", "3", "--run.seed", "1", "--run.keep_last", "1"]
    assert exit_code(main, [*argv, "--run.resume", "true", *other]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "(run.seed was 0, is 1; method.patch_grid was 2, is 3)" in message
    assert "keep_last" not in message
    assert (tmp_path / "run" / "config.yaml").read_text() == begun
    assert exit_code(main, [*argv, "--run.resume", "true", "--run.keep_last", "1"]) == 0
    assert len(list_checkpoints(tmp_path / "run")) == 1


@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own(tiny_yaml: Path, tmp_path: Path, start: Start) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    argv = ["-m", "sfda_engine.adapt", "--config", str(tiny_yaml), "--run.steps", "40", "--run.output"]
    stopped = start(*argv, str(halves))
    assert stopped.stderr is not None
    first = next(line for line in stopped.stderr if line.startswith("generator"))  # after what the intake warns of
    stopped.send_signal(signal.SIGINT)
    _, rest = stopped.communicate(timeout=100)
    assert first.startswith("generator warm-up 1/2")
    assert stopped.returncode == 130, rest
    assert "Traceback" not in rest
    assert list_checkpoints(halves), rest
    for folder, options in ((halves, ["--run.resume", "true"]), (whole, [])):
        finished = start(*argv, str(folder), *options)
        _, printed = finished.communicate(timeout=100)
        assert finished.returncode == 0, printed
    assert (halves / LAST).read_bytes() == (whole / LAST).read_bytes()
