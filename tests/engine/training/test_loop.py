"""The loop: it learns, repeats itself, leaves the source alone, obeys every switch and stops where a term breaks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from sfda_engine.adapt import main
from sfda_engine.config.schema import Config
from sfda_engine.distributed.optimizer_step import Update
from sfda_engine.errors import TrainingError
from sfda_engine.exit_codes import exit_code
from sfda_engine.models import build_segmenter
from sfda_engine.models.weights import WeightsInfo, save_weights
from sfda_engine.pipelines.objective import total_steps
from sfda_engine.pipelines.training import Trainer
from sfda_engine.run_folder.checkpoint import list_checkpoints
from sfda_engine.training.metrics import read_metrics
from tests.engine.conftest import break_loss

NETWORKS = ("source", "student", "generator", "discriminator")


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def parameters(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.named_parameters()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one)


def lines_of(trainer: Trainer, phase: str = "adaptation") -> list[dict[str, Any]]:
    assert trainer.loop.metrics.path is not None
    return [line for line in read_metrics(trainer.loop.metrics.path) if line["phase"] == phase]


def test_twenty_steps_learn(trainer: Callable[..., Trainer]) -> None:
    options = [
        "--run.log_every",
        "5",
        "--method.warmup_steps",
        "20",
        "--method.lr",
        "0.03",
        "--method.synthetic_bn",
        "batch",
    ]
    run = trainer("--run.steps", "20", *options)
    run.run()
    warmup, adaptation = lines_of(run, "generator_warmup"), lines_of(run)
    assert warmup[-1]["generator/bns"] < 0.8 * warmup[0]["generator/bns"]
    assert adaptation[-1]["student/mae"] < 0.8 * adaptation[0]["student/mae"]
    assert adaptation[-1]["discriminator/bce"] < adaptation[0]["discriminator/bce"]


def test_source_stays_bit_equal_and_the_others_move(trainer: Callable[..., Trainer]) -> None:
    run = trainer()
    before = {name: snapshot(getattr(run.networks, name)) for name in NETWORKS}
    run.run()
    assert same(before["source"], snapshot(run.networks.source))
    for name in NETWORKS[1:]:
        assert not same(before[name], snapshot(getattr(run.networks, name)))


TRANSFER = {"mae", "dad_ss"}
IPSM = {"discriminator/bce", "student/adversarial"}
ALL = {f"{stage}/{name}" for stage in ("generator", "student") for name in TRANSFER | {"total"}} | {
    "generator/bns",
    "generator/dad_st",
    "student/max_square",
    *IPSM,
}


def terms_of(line: dict[str, Any]) -> dict[str, float]:
    """The loss terms of a log line, without the guard's signals."""
    return {key: value for key, value in line.items() if "/" in key and not key.startswith("guard/")}


SWITCHES: dict[str, tuple[list[str], set[str], set[str]]] = {
    # options, terms that are left out, networks that stay as they are
    "SFDA": ([], set(), set()),
    "transfer only": (
        ["--method.max_square_weight=0", "--method.gamma=0"],
        IPSM | {"student/max_square"},
        {"discriminator"},
    ),
    "no IPSM": (["--method.gamma=0"], IPSM, {"discriminator"}),
    "one patch": (["--method.patch_grid=1"], IPSM, {"discriminator"}),
    "BNS only": (
        ["--method.beta=0", "--method.tau=0"],
        {"generator/dad_ss", "student/dad_ss", "generator/dad_st"},
        set(),
    ),
    "DAD only": (["--method.bns_weight=0"], set(), set()),
    "no transfer": (
        ["--method.alpha=0", "--method.beta=0"],
        {name for name in ALL if name.startswith("generator/")} | {"student/mae", "student/dad_ss"},
        {"generator"},
    ),
    "as printed": (["--method.terms=printed"], set(), set()),
}


@pytest.mark.parametrize("name", SWITCHES)
def test_switch_leaves_out_its_terms_and_the_rest_add_up(name: str, trainer: Callable[..., Trainer]) -> None:
    """Eq. 11 and 16, recomputed from the logged terms: each one enters with its weight and sign or not at all."""
    options, absent, unmoved = SWITCHES[name]
    run = trainer(*options)
    before = {network: parameters(getattr(run.networks, network)) for network in NETWORKS}
    run.run()
    moved = {network for network in NETWORKS if not same(before[network], parameters(getattr(run.networks, network)))}
    assert moved == {"student", "generator", "discriminator"} - unmoved
    method, lines = run.config.method, lines_of(run)
    assert len(lines) == run.config.run.steps
    for line in lines:
        terms = {
            key: value for key, value in line.items() if key.startswith(("generator/", "discriminator/", "student/"))
        }
        assert set(terms) == ALL - absent
        terms = dict.fromkeys(ALL, 0.0) | terms
        student = (
            method.max_square_weight * terms["student/max_square"]
            + method.gamma * terms["student/adversarial"]
            + method.alpha * terms["student/mae"]
            + method.beta * terms["student/dad_ss"]
        )
        assert terms["student/total"] == pytest.approx(student, rel=1e-5)
        bounded = float if method.terms == "printed" else math.log1p
        generator = (
            method.bns_weight * terms["generator/bns"]
            + method.tau * terms["generator/dad_st"]
            - method.alpha * bounded(terms["generator/mae"])
            - method.beta * bounded(terms["generator/dad_ss"])
        )
        assert terms["generator/total"] == pytest.approx(generator, rel=1e-5, abs=1e-6)


def test_fresh_student_knows_nothing_and_is_not_waited_for(trainer: Callable[..., Trainer]) -> None:
    run = trainer("--method.student_init", "fresh")
    assert not same(parameters(run.networks.student), parameters(run.networks.source))
    run.run()
    assert [run.loop.position.done(phase) for phase in ("generator_warmup", "adaptation")] == [0, 3]
    # its BN statistics come from the two synthetic passes of a step: nothing of Eq. 12 trains it on the target
    tracked = [int(value) for key, value in run.networks.student.state_dict().items() if "num_batches" in key]
    assert set(tracked) == {2 * 3}


def test_student_without_warm_start_is_the_source(trainer: Callable[..., Trainer]) -> None:
    run = trainer("--method.bn_share", "1")
    assert same(snapshot(run.networks.student), snapshot(run.networks.source))


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (["--run.epochs", "1"], 3),
        (["--run.epochs", "2"], 6),
        (["--run.epochs", "2", "--run.gradient_accumulation", "2"], 3),
        (["--run.epochs", "1", "--target.batch_size", "4"], 2),
        (["--run.epochs", "1", "--target.batch_size", "32"], 1),
        (["--run.steps", "7"], 7),
    ],
)
def test_epochs_are_passes_over_the_frames(options: list[str], steps: int, tiny: Callable[..., Config]) -> None:
    assert total_steps(tiny(*options), frames=6) == steps


def test_batch_may_exceed_the_frames(trainer: Callable[..., Trainer]) -> None:
    run = trainer("--target.batch_size", "8", "--run.steps", "1")
    run.run()
    assert run.loop.position.done("adaptation") == 1


def test_accumulated_update_is_one_step_on_the_mean_gradient() -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = nn.Linear(3, 1, bias=False)
    start, inputs = model.weight.detach().double(), torch.randn(2, 4, 3)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    update = Update(accelerator, optimizer)
    for batch in inputs:
        with accelerator.accumulate(model):
            update(model(batch).square().mean())
    doubles = inputs.double().flatten(0, 1)
    gradient = (2 * (doubles @ start.T) * doubles).mean(0, keepdim=True)
    torch.testing.assert_close(model.weight.detach().double(), start - 0.1 * gradient, rtol=1e-5, atol=1e-6)


def test_gradient_accumulation_updates_once_in_two_batches(trainer: Callable[..., Trainer]) -> None:
    run = trainer("--run.gradient_accumulation", "2")
    run.run()
    assert run.loop.position.done("adaptation") == 3
    state = run.updates.generator.optimizer.state_dict()["state"]
    assert {int(entry["step"]) for entry in state.values()} == {2 + 3}  # warm-up and adaptation
    drawn = [len(batches) for _, batches in run.batches("adaptation", 0, 3)]
    assert drawn == [2, 2, 2]


def test_learning_rate_follows_the_polynomial(trainer: Callable[..., Trainer]) -> None:
    run = trainer("--run.steps", "5")
    run.run()
    expected = [2.5e-4 * (1 - step / 5) ** 0.9 for step in range(1, 6)]
    assert [line["lr"] for line in lines_of(run)] == pytest.approx(expected, abs=1e-12)


def test_learning_rate_of_self_training_rises_first(trainer: Callable[..., Trainer]) -> None:
    run = trainer("--run.steps", "20", "--method.pseudo_label_weight", "1")
    rates = []
    for _ in range(20):
        rates += run.schedule.get_last_lr()
        run.schedule.step()
    expected = [2.5e-4 * min(1, (step + 1) / 3) * (1 - step / 20) ** 0.9 for step in range(20)]
    assert rates == pytest.approx(expected, abs=1e-12)


def test_student_gradient_is_clipped(trainer: Callable[..., Trainer]) -> None:
    options = ("--run.steps", "1", "--method.warmup_steps", "0", "--method.lr", "0.1")
    run = trainer(*options, "--method.clip_grad_norm", "0.01")
    assert run.updates.generator.clip_grad_norm == 0.01
    before = parameters(run.networks.student)
    run.run()
    # the first Nesterov step moves by -lr (1 + momentum) (g + decay w)
    gradients = [
        (before[key] - value).flatten().double() / (0.1 * 1.9) - 1e-4 * before[key].flatten().double()
        for key, value in parameters(run.networks.student).items()
    ]
    assert torch.cat(gradients).norm().item() == pytest.approx(0.01, rel=0.01)


def test_signal_while_processes_ask_each_other_counts_for_the_next_step(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the process that it reached would stop alone, and the others wait for it."""
    run = trainer()

    def agreed(flag: bool) -> bool:
        run.loop.interrupts.requested = True  # the signal comes when the others have been told "no"
        return flag

    monkeypatch.setattr("sfda_engine.training.loop.any_process", agreed)
    assert not run.loop._asked_to_stop()
    assert run.loop._asked_to_stop()


def test_literal_ends_or_names_what_broke(trainer: Callable[..., Trainer]) -> None:
    run = trainer("--method.preset", "literal", "--run.steps", "12", "--method.guard", "false")
    failure = None
    try:
        run.run()
    except TrainingError as error:
        failure = str(error)
    if failure is not None:
        assert any(term in failure for term in ("generator/", "student/", "discriminator/", "weights of the"))
    else:
        assert run.loop.position.done("adaptation") == 12
        assert all(value.isfinite().all() for value in parameters(run.networks.student).values())


@pytest.mark.parametrize("term", ["mae_loss", "bns_loss", "adversarial_loss"])
def test_nan_without_guard_stops_names_its_term_and_keeps_the_last_good_checkpoint(
    term: str,
    tiny_yaml: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    quick: None,
) -> None:
    break_loss(term, 8, monkeypatch)
    run = tmp_path / "run"
    argv = ["--config", str(tiny_yaml), "--run.output", str(run), "--run.steps", "20", "--method.guard", "false"]
    assert exit_code(main, argv) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("training failed: ")
    assert f"/{term.removesuffix('_loss')}" in message.partition("became NaN")[0]
    newest = list_checkpoints(run)[-1]
    for file in newest.glob("*.safetensors"):
        assert all(value.isfinite().all() for value in load_file(file).values() if value.is_floating_point())
    assert not any((run / name).exists() for name in ("last.safetensors", "adapted.safetensors", "result.json"))
    assert "NaN" not in (run / "metrics.jsonl").read_text()


def test_broken_weights_are_not_saved(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    run = trainer()
    with torch.no_grad():
        next(iter(run.networks.student.parameters())).fill_(math.inf)
    with pytest.raises(TrainingError, match="weights of the student"):
        run.loop.save()
    assert list_checkpoints(tmp_path / "run") == []


def test_newest_checkpoints_are_kept(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    run = trainer("--run.steps", "6", "--run.checkpoint_every", "2", "--run.keep_last", "2")
    run.run()
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["0000006", "0000008"]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["deeplabv3_resnet50", "segnet_vgg16", "lraspp_mobilenet_v3_large"])
def test_large_network_takes_a_step(arch: str, trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "source.safetensors"
    save_weights(weights, build_segmenter(arch, 9), WeightsInfo(arch=arch, num_classes=9))
    run = trainer(
        *["--model.weights", str(weights), "--target.size", "[64, 64]", "--method.synthetic_size", "[64, 64]"],
        *["--run.steps", "1", "--method.warmup_steps", "1"],
    )
    run.run()
    (line,) = lines_of(run)
    assert {
        key for key in line if "/" in key and not key.startswith("guard/")
    } == ALL  # written at all, so finite: metrics refuse anything else
