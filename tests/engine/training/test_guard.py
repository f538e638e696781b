"""The guard: a collapse and a NaN are strikes; three end the run whole."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sfda_engine.adapt import main
from sfda_engine.errors import TrainingError
from sfda_engine.exit_codes import exit_code
from sfda_engine.judge.collapse import (
    Signals,
)
from sfda_engine.method import steps
from sfda_engine.pipelines.training import Trainer
from sfda_engine.report import summary
from sfda_engine.report.charts import loss_panels
from sfda_engine.run_folder.checkpoint import list_checkpoints
from sfda_engine.training.guard import TRAINED, Guard, is_finite
from sfda_engine.training.metrics import read_metrics
from sfda_engine.training.snapshots import copied
from tests.engine.conftest import break_loss
from tests.engine.training.guard_states import COLLAPSED, HEALTHY, fill, flat, same, scripted, states


def test_strike_goes_back_to_the_bit_and_halves_the_rates(trainer: Callable[..., Trainer]) -> None:
    run = trainer("--method.warmup_steps", "1", "--run.steps", "4")
    begun = copied(dict(run.networks.discriminator.state_dict()))
    run.run()
    assert run.loop.guard is not None
    guard, before = run.loop.guard, copied(dict(run.networks.student.state_dict()))
    assert guard.healthy is not None
    assert guard.healthy.step == 5
    rates = [group["lr"] for name in TRAINED for group in getattr(run.updates, name).optimizer.param_groups]
    fill(run.networks.student, math.nan)
    fill(run.networks.generator, 0.5)
    fill(run.networks.discriminator, math.nan)
    kept = copied(dict(run.networks.generator.state_dict()))
    look = guard.look(9, terms={"student/mae": 0.5})
    assert look.event is not None
    assert look.event["seen"] == "weights of the student, weights of the discriminator not finite"
    assert (look.event["strike"], look.event["total_step"], look.event["back_to"]) == (1, 9, 5)
    assert same(before, run.networks.student.state_dict())
    assert same(kept, run.networks.generator.state_dict())  # finite, so it goes on
    assert same(begun, run.networks.discriminator.state_dict())
    assert all(not getattr(run.updates, name).optimizer.state for name in TRAINED)
    halved = [group["lr"] for name in TRAINED for group in getattr(run.updates, name).optimizer.param_groups]
    assert halved == [rate / 2 for rate in rates]
    # what the guard goes back to is a copy: the run goes on without touching it
    start = copied(guard.start)
    for index, (batch,) in run.batches("adaptation", 0, 2):
        run.adapt_on(index, batch)
    assert same(start, guard.start)


def test_strikes_in_a_row_go_back_to_the_start(trainer: Callable[..., Trainer]) -> None:
    run = trainer("--method.warmup_steps", "1", "--run.steps", "4")
    start = copied(dict(run.networks.student.state_dict()))
    run.run()
    assert run.loop.guard is not None
    assert not same(start, run.networks.student.state_dict())
    scripted(run.loop.guard, [COLLAPSED] * 3)
    events = [run.loop.guard.look(9, terms={}).event for _ in range(3)]
    assert [event["back_to"] for event in events if event] == [5, 0, 0]
    assert run.loop.guard.ended
    assert same(start, run.networks.student.state_dict())


def bytes_of(run: Trainer, *names: str) -> int:
    states = [getattr(run.networks, name).state_dict().values() for name in names]
    return sum(value.numel() * value.element_size() for state in states for value in state)


def test_checkpoint_is_at_most_four_times_what_is_trained(trainer: Callable[..., Trainer]) -> None:
    """10.6 times on the demo before, 3.01 since; the student itself is there once, and once halfway."""
    run = trainer("--run.steps", "6")
    run.run()
    assert run.loop.folder is not None
    newest = list_checkpoints(run.loop.folder)[-1]
    written = sum(path.stat().st_size for path in newest.iterdir())
    assert written <= 4 * bytes_of(run, *TRAINED)
    states = [torch.load(path, weights_only=True) for path in newest.glob("custom_checkpoint_*.pkl")]
    tensors = [value for state in states for value in flat(state) if isinstance(value, Tensor)]
    assert sum(value.numel() * value.element_size() for value in tensors) == bytes_of(run, "student")


def test_networks_that_are_not_trained_are_in_no_checkpoint(trainer: Callable[..., Trainer]) -> None:
    run = trainer("--method.alpha", "0", "--method.beta", "0", "--method.gamma", "0")
    run.run()
    assert run.loop.folder is not None
    newest = list_checkpoints(run.loop.folder)[-1]
    assert [path.name for path in newest.glob("*.safetensors")] == ["model.safetensors"]
    assert sum(path.stat().st_size for path in newest.glob("model*")) < 2 * bytes_of(run, "student")


def test_collapse_is_caught_and_the_rest_of_the_run_is_slower(
    trainer: Callable[..., Trainer],
    script: Callable[[list[Signals]], list[Guard]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    script([HEALTHY] * 2 + [HEALTHY, COLLAPSED, HEALTHY])  # two steps of warm-up, three of adaptation
    run = trainer()
    with caplog.at_level("WARNING"):
        run.run()
    assert run.loop.guard is not None
    assert [event["total_step"] for event in run.loop.guard.events] == [4]
    assert run.loop.position.done("adaptation") == 3
    assert run.loop.metrics.path is not None
    lines = read_metrics(run.loop.metrics.path)
    (event,) = (line for line in lines if line["phase"] == "guard")
    assert (event["strike"], event["total_step"], event["back_to"]) == (1, 4, 3)
    assert "classes vanish while confidence climbs" in event["seen"]
    assert "step 3" in event["done"]
    assert [line["step"] for line in lines if line["phase"] == "adaptation"] == [1, 2, 3]
    assert len(loss_panels(lines)["guard"]) == len(vars(HEALTHY))
    assert lines[-1]["lr"] == 0  # the schedule's end
    rates = [line["lr"] for line in lines if line["phase"] == "adaptation"]
    assert rates[1] == pytest.approx(2.5e-4 * (1 / 3) ** 0.9)
    warnings = [record.getMessage() for record in caplog.records if "strike 1" in record.getMessage()]
    assert len(warnings) == 1
    assert "step 4" in warnings[0]


@pytest.mark.parametrize("term", ["mae_loss", "bns_loss", "adversarial_loss"])
def test_three_nans_end_the_run_whole_with_the_last_good_weights(
    term: str,
    tiny_yaml: Path,
    night_frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    break_loss(term, 4, monkeypatch)
    run = tmp_path / "run"
    argv = ["--config", str(tiny_yaml), "--run.output", str(run), "--run.steps", "20"]
    assert exit_code(main, [*argv, "--evaluate.root", str(night_frames)]) == 0
    result = json.loads((run / "result.json").read_text())
    assert (result["guard"]["strikes"], result["guard"]["ended_early"]) == (3, True)
    assert result["steps"] < 20
    assert f"/{term.removesuffix('_loss')}" in result["guard"]["events"][0]["seen"]
    for name in ("last", "adapted"):
        assert all(value.isfinite().all() for value in load_file(run / f"{name}.safetensors").values())
    assert "NaN" not in (run / "metrics.jsonl").read_text()
    page = (run / "report.html").read_text()
    assert "<h2>Strikes</h2>" in page
    assert "not finite" in page
    assert [f"strike {number}" in caplog.text for number in (1, 2, 3, 4)] == [True, True, True, False]


def test_report_without_strikes_does_not_speak_of_them() -> None:
    assert summary.strikes({"guard": {"strikes": 0, "ended_early": False, "events": []}}) == []
    assert summary.strikes({"guard": None}) == []
    assert summary.strikes({}) == []


def test_healthy_run_is_bit_equal_with_and_without(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    ends = []
    for guard in ("true", "false"):
        run = trainer("--method.guard", guard)
        run.run()
        assert (run.loop.guard is not None) == (guard == "true")
        assert run.loop.guard is None or run.loop.guard.events == []
        ends.append(states(run))
        (tmp_path / "run").rename(tmp_path / f"guard_{guard}")
    assert same(*ends)


def test_without_guard_a_nan_is_an_error(trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "mae_loss", lambda *_: torch.tensor(math.nan, requires_grad=True))
    with pytest.raises(TrainingError, match="student/mae"):
        trainer("--method.guard", "false").run()


def test_of_a_fresh_student_only_what_is_not_finite_counts(trainer: Callable[..., Trainer]) -> None:
    run = trainer("--method.student_init", "fresh")
    run.run()
    assert run.loop.guard is not None
    assert run.loop.guard.probe is None


def test_literal_preset_ends_with_finite_weights(trainer: Callable[..., Trainer]) -> None:
    run = trainer("--method.preset", "literal", "--run.steps", "12")
    run.run()
    assert run.loop.guard is not None
    assert run.loop.position.done("adaptation") == 12 or run.loop.guard.ended
    assert is_finite(run.networks.student)


def test_is_finite_sees_buffers_and_large_values() -> None:
    layer = nn.BatchNorm1d(3)
    layer.weight.data.fill_(3e38)
    assert is_finite(layer)
    for value in (math.nan, math.inf):
        layer.register_buffer("running_var", torch.tensor([1.0, value, 1.0]))
        assert not is_finite(layer)
