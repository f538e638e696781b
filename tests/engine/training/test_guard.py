"""The sentinel: signals against closed forms; a collapse and a NaN are strikes; three end the run whole."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from sfda_engine.adapt import main
from sfda_engine.data.images import ImageSize
from sfda_engine.errors import TrainingError
from sfda_engine.exit_codes import exit_code
from sfda_engine.judge.collapse import (
    CLASSES,
    FLOOR,
    LEFT,
    Probe,
    Signals,
    glances,
    probe_frames,
    shares,
    signals_of,
    statistics_drift,
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

HEALTHY = Signals(
    class_entropy=1.0,
    classes_kept=1.0,
    entropy=0.5,
    entropy_kept=1.0,
    confidence=0.8,
    agreement=1.0,
    bn_drift=0.0,
)
COLLAPSED = Signals(**{**vars(HEALTHY), "classes_kept": 0.9, "entropy_kept": 0.5})


class Painted(nn.Module):
    """Logits are what was painted, whatever the frames show; one BatchNorm layer."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.norm = nn.Parameter(logits), nn.BatchNorm2d(2)

    def forward(self, images: Tensor) -> Any:
        return SimpleNamespace(logits=self.logits[: len(images)])


def test_signals_against_closed_forms() -> None:
    """Two frames of 1x4 pixels and three classes, painted by probabilities."""
    sure, torn = [0.8, 0.1, 0.1], [0.25, 0.5, 0.25]
    start = torch.tensor([[sure, sure, torn, torn], [sure, torn, [0.1, 0.1, 0.8], [0.1, 0.1, 0.8]]])
    now = torch.tensor([[sure, sure, sure, torn], [sure, torn, sure, [0.1, 0.1, 0.8]]])
    student = Painted(start.log().permute(0, 2, 1)[:, :, None]).eval()
    frames = [Image.new("RGB", (4, 1))] * 2
    probe = Probe(student, frames, nn.Identity(), batch_size=2)
    entropy_sure, entropy_torn = (-sum(p * math.log(p) for p in row) for row in (sure, torn))
    first = probe(student)
    assert first.left == pytest.approx(1)
    assert first.agreement == 1
    assert first.entropy == pytest.approx((5 * entropy_sure + 3 * entropy_torn) / 8, rel=1e-6)
    assert first.confidence == pytest.approx((5 * 0.8 + 3 * 0.5) / 8, rel=1e-6)
    assert first.class_entropy == pytest.approx(-(6 / 8 * math.log(3 / 8) + 2 / 8 * math.log(2 / 8)), rel=1e-9)
    assert first.bn_drift == 0

    student.logits.data = now.log().permute(0, 2, 1)[:, :, None]
    second = probe(student)
    assert second.agreement == 6 / 8
    assert second.class_entropy == pytest.approx(-sum(p * math.log(p) for p in (5 / 8, 2 / 8, 1 / 8)), rel=1e-9)
    assert second.classes_kept == pytest.approx(math.exp(second.class_entropy - first.class_entropy))
    assert second.entropy == pytest.approx((6 * entropy_sure + 2 * entropy_torn) / 8, rel=1e-6)
    assert second.entropy_kept == pytest.approx((second.entropy + FLOOR) / (first.entropy + FLOOR))
    assert second.left == pytest.approx(second.classes_kept**CLASSES * second.entropy_kept)
    assert second.collapsed == (second.left < LEFT)


class Pointwise(nn.Module):
    """Logits of every pixel from its own color."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.norm = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)

    def forward(self, images: Tensor) -> Any:
        return SimpleNamespace(logits=self.norm(self.head(images)))


def test_batches_of_the_probe_do_not_matter() -> None:
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)
    frames, student = [Image.fromarray(one) for one in pixels], Pointwise().eval()
    one, two = (Probe(student, frames, nn.Identity(), batch_size=size) for size in (2, 5))
    student.head.weight.data *= 1.5
    assert vars(one(student)) == pytest.approx(vars(two(student)), rel=1e-6)


def test_a_glance_does_not_depend_on_those_before() -> None:
    torch.manual_seed(1)
    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)
    frames, one, other = [Image.fromarray(each) for each in pixels], Pointwise().eval(), Pointwise().eval()
    first, second = (glances(student, frames, nn.Identity(), 3) for student in (one, other))
    again = glances(one, frames, nn.Identity(), 3)
    assert same([tuple(each) for each in first], [tuple(each) for each in again])
    expected = torch.cat([each.labels for each in first]) == torch.cat([each.labels for each in second])
    assert shares(second, first)[-1].item() == pytest.approx(expected.double().mean().item(), abs=1e-12)
    assert torch.equal(shares(second, first)[-1], shares(first, second)[-1])
    assert shares(first, first)[-1] == 1


def test_drift_of_statistics() -> None:
    start = [(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 4.0])), (torch.tensor([2.0]), torch.tensor([1.0]))]
    now = [(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 16.0])), (torch.tensor([2.0]), torch.tensor([math.e**2]))]
    expected = ((1 + math.log(2) ** 2) / 2 + 1) / 2
    assert statistics_drift(now, start) == pytest.approx(expected, rel=1e-4)
    assert statistics_drift(start, start) == 0


@pytest.mark.parametrize(
    ("histogram", "entropy", "agreement", "collapsed"),
    [
        ((0.5, 0.5), 1.0, 1.0, False),
        ((0.5, 0.5), 0.7, 0.9, False),  # surer, and all classes still there: self-training that helps
        ((0.85, 0.15), 0.5, 0.9, True),  # classes vanish while confidence climbs
        ((0.65, 0.35), 1.1, 0.9, False),  # classes shrink while confidence falls
        ((0.5, 0.5), 3.0, 0.4, True),  # another model than it was
    ],
)
def test_what_is_a_collapse(histogram: tuple[float, float], entropy: float, agreement: float, collapsed: bool) -> None:
    shares, even = torch.tensor(histogram).double(), torch.tensor([0.5, 0.5]).double()
    assert signals_of(shares, even, (entropy, 0.8, agreement), 1.0, 0.0).collapsed == collapsed


def test_probe_frames_are_even_and_shared() -> None:
    class Frames:
        def __init__(self, count: int) -> None:
            self.count = count

        def __len__(self) -> int:
            return self.count

        def image(self, index: int) -> Image.Image:
            return Image.new("RGB", (2, 2), (index, 0, 0))

        def name(self, index: int) -> str:
            return str(index)

    def seen(count: int) -> list[int]:
        return [int(np.asarray(frame)[0, 0, 0]) for frame in probe_frames(Frames(count), ImageSize(2, 2))]

    assert seen(61) == list(range(0, 61, 4))
    assert seen(5) == list(range(5))


def scripted(guard: Guard, script: list[Signals]) -> None:
    looks = iter(script)
    guard.probe = lambda student: next(looks)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Signals]], list[Guard]]:
    """script([...]) lets every guard made from now on see these signals, and returns those that were made."""

    def plant(signals: list[Signals]) -> list[Guard]:
        made: list[Guard] = []
        true_make = Trainer.make_guard

        def make(self: Trainer) -> Guard:
            guard = true_make(self)
            scripted(guard, signals)
            made.append(guard)
            return guard

        monkeypatch.setattr(Trainer, "make_guard", make)
        return made

    return plant


def states(trainer: Trainer) -> dict[str, Any]:
    return copied(
        {
            name: [getattr(trainer.networks, name).state_dict(), getattr(trainer.updates, name).optimizer.state_dict()]
            for name in TRAINED
        }
    )


def flat(state: Any) -> list[Any]:
    if isinstance(state, dict):
        return [leaf for key in sorted(state, key=str) if key != "lr" for leaf in flat(state[key])]
    if isinstance(state, list | tuple):
        return [leaf for one in state for leaf in flat(one)]
    return [state]


def same(one: Any, other: Any) -> bool:
    pairs = list(zip(flat(one), flat(other), strict=True))
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in pairs)


def fill(network: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)


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
