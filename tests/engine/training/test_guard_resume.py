"""Stops and resumes around strikes: bit-equal, and never back to what a guard went back from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sfda_engine.judge.collapse import (
    Signals,
)
from sfda_engine.pipelines.training import Trainer
from sfda_engine.training.guard import Guard
from sfda_engine.training.snapshots import copied
from tests.engine.training.guard_states import COLLAPSED, HEALTHY, same, states


def test_resume_between_strikes_is_bit_equal(
    trainer: Callable[..., Trainer], script: Callable[[list[Signals]], list[Guard]], tmp_path: Path
) -> None:
    """Stopped after a strike and a checkpoint, and loaded by another trainer: the second strike goes back as far."""
    options = ["--run.steps", "6", "--run.checkpoint_every", "1", "--method.warmup_steps", "1", "--run.keep_last", "9"]
    looks = [HEALTHY, HEALTHY, HEALTHY, COLLAPSED, HEALTHY, COLLAPSED, HEALTHY]
    script(looks)
    whole = trainer(*options)
    whole.run()
    assert whole.loop.guard is not None
    end, events = states(whole), whole.loop.guard.events
    checkpoints = tmp_path / "run" / "checkpoints"
    for path in sorted(checkpoints.iterdir())[4:]:
        for file in sorted(path.rglob("*"), reverse=True):
            file.unlink() if file.is_file() else file.rmdir()
        path.rmdir()
    (tmp_path / "run").rename(tmp_path / "half")
    script(looks[4:])
    half = trainer(*options, "--run.resume", "true", folder=True)
    (tmp_path / "run").rename(tmp_path / "empty")
    (tmp_path / "half").rename(tmp_path / "run")
    half.run()
    assert half.loop.guard is not None
    assert [event["total_step"] for event in half.loop.guard.events] == [4, 6]
    assert same(end, states(half))
    assert half.loop.guard.events == events


def stop_at(run: Trainer, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in this step of the adaptation."""
    adapt_on = run.adapt_on

    def stopped(index: int, batch: Any) -> dict[str, torch.Tensor]:
        run.loop.interrupts.requested = index + 1 == step
        return adapt_on(index, batch)

    monkeypatch.setattr(run, "adapt_on", stopped)


def test_a_strike_after_a_stop_between_two_looks_goes_back_before_the_stop(
    trainer: Callable[..., Trainer],
    script: Callable[[list[Signals]], list[Guard]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The student of the last look is not the one that the checkpoint holds."""
    options = ["--run.steps", "12", "--run.log_every", "4", "--run.checkpoint_every", "100"]
    looks = [HEALTHY, HEALTHY, COLLAPSED, HEALTHY]
    script(looks)
    whole = trainer(*options)
    whole.run()
    (tmp_path / "run").rename(tmp_path / "whole")
    script(looks[:2])
    half = trainer(*options)
    stop_at(half, 6, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        half.run()
    (tmp_path / "run").rename(tmp_path / "half")
    script(looks[2:])
    rest = trainer(*options, "--run.resume", "true")
    (tmp_path / "run").rename(tmp_path / "empty")
    (tmp_path / "half").rename(tmp_path / "run")
    rest.run()
    assert rest.loop.guard is not None
    assert [event["back_to"] for event in rest.loop.guard.events] == [6]
    assert same(states(whole), states(rest))


def test_a_stop_between_two_lines_is_not_a_look_of_the_guard(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a stopped run would keep other weights to go back to than a whole one."""
    run = trainer("--run.steps", "8", "--run.log_every", "4", "--run.checkpoint_every", "100")
    seen: list[int] = []
    look = Guard.look

    def recorded(self: Guard, step: int, **options: Any) -> Any:
        seen.append(step)
        return look(self, step, **options)

    monkeypatch.setattr(Guard, "look", recorded)
    stop_at(run, 6, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert run.loop.position.done("adaptation") == 6
    assert seen == [2, 2 + 4]  # the end of the warm-up of two steps, and the fourth step


def test_weights_that_the_guard_went_back_from_are_no_candidates(
    trainer: Callable[..., Trainer], script: Callable[[list[Signals]], list[Guard]]
) -> None:
    script([HEALTHY, HEALTHY, HEALTHY, COLLAPSED, HEALTHY, HEALTHY])
    run = trainer("--run.steps", "4", "--method.warmup_steps", "1", "--run.checkpoint_every", "100")
    at: dict[int, dict[str, torch.Tensor]] = {}
    take = run.snapshots.take

    def before(step: int, student: torch.nn.Module) -> None:
        at[step] = copied(dict(student.state_dict()))
        take(step, student)

    run.snapshots.take = before  # type: ignore[method-assign]
    run.run()
    assert run.loop.guard is not None
    assert len(run.loop.guard.events) == 1
    struck = run.loop.guard.events[0]["total_step"] - 1
    assert same(run.snapshots.taken[2], at[2])
    assert same(at[struck], at[struck - 1])  # taken after the guard went back
