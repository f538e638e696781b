"""A whole step: its totals, what it may change, what it runs once, which BatchNorm statistics it writes."""

from __future__ import annotations

import copy
import math
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfda_engine.method import steps
from sfda_engine.method.objective import Objective
from sfda_engine.method.steps import Networks, Updates, adaptation_step, target_forward
from sfda_engine.models.norms import batch_norm_statistics

GRID, TARGET, SYNTHETIC = 2, (24, 32), (16, 20)
PAPER = Objective(alpha=1.0, beta=0.5, tau=0.5, gamma=0.01, max_square_weight=0.1, patch_grid=GRID)
SOURCE, STUDENT, GENERATOR, DISCRIMINATOR = ROLES = ("source", "student", "generator", "discriminator")
Snapshot = dict[str, dict[str, Tensor]]
Step = Callable[..., dict[str, Tensor]]


@pytest.fixture
def step(networks: Networks, updates: Updates, images: Tensor, latents: list[Tensor]) -> Step:
    """step(objective, generator_steps=1): one adaptation step of `networks`; returns the logged terms."""
    return lambda objective, generator_steps=1: adaptation_step(
        networks, updates, images, latents[: generator_steps + 1], objective, nullcontext
    )


def snapshot(networks: Networks) -> Snapshot:
    return {
        role: {name: tensor.clone() for name, tensor in getattr(networks, role).state_dict().items()} for role in ROLES
    }


def changed(networks: Networks, before: Snapshot, *, weights_only: bool = False) -> set[str]:
    """The networks with any tensor that is not bit-equal to the snapshot."""
    moved = set()
    for role in ROLES:
        module: nn.Module = getattr(networks, role)
        tensors = dict(module.named_parameters()) if weights_only else module.state_dict()
        if any(not torch.equal(tensor, before[role][name]) for name, tensor in tensors.items()):
            moved.add(role)
    return moved


def gradients(networks: Networks) -> set[str]:
    return {role for role in ROLES if any(p.grad is not None for p in getattr(networks, role).parameters())}


@pytest.mark.parametrize("printed", [False, True])
def test_the_totals_are_the_equations(step: Step, networks: Networks, printed: bool) -> None:
    objective = replace(
        PAPER,
        bns_weight=0.7,
        alpha=1.3,
        beta=0.6,
        tau=0.4,
        gamma=0.9,
        max_square_weight=0.8,
        printed=printed,
    )
    terms = {name: value.item() for name, value in step(objective).items()}
    assert terms.keys() == {
        *(f"generator/{name}" for name in ("bns", "dad_st", "mae", "dad_ss", "total")),
        *(f"student/{name}" for name in ("max_square", "adversarial", "mae", "dad_ss", "total")),
        "discriminator/bce",
    }
    assert all(math.isfinite(value) for value in terms.values())
    bounded: Callable[[float], float] = float if printed else math.log1p
    eq11 = 0.7 * terms["generator/bns"] + 0.4 * terms["generator/dad_st"]
    eq11 -= 1.3 * bounded(terms["generator/mae"]) + 0.6 * bounded(terms["generator/dad_ss"])
    assert terms["generator/total"] == pytest.approx(eq11, rel=1e-5)
    eq16 = 0.8 * terms["student/max_square"] + 0.9 * terms["student/adversarial"]
    eq16 += 1.3 * terms["student/mae"] + 0.6 * terms["student/dad_ss"]
    assert terms["student/total"] == pytest.approx(eq16, rel=1e-5)


@pytest.mark.parametrize(
    "objective",
    [PAPER, replace(PAPER, max_square_weight=1.0, temperature=None, printed=True, synthetic_bn="running")],
    ids=["paper", "literal"],
)
def test_a_step_moves_all_but_the_source(step: Step, networks: Networks, objective: Objective) -> None:
    before = snapshot(networks)
    step(objective)
    assert changed(networks, before, weights_only=True) == {STUDENT, GENERATOR, DISCRIMINATOR}
    assert SOURCE not in changed(networks, before)
    assert gradients(networks) == set()
    assert not networks.source.training


@pytest.mark.parametrize(
    ("off", "unmoved", "missing"),
    [
        ({"alpha": 0.0, "beta": 0.0}, {GENERATOR}, {"generator/", "student/mae", "student/dad_ss"}),
        ({"gamma": 0.0}, {DISCRIMINATOR}, {"discriminator/", "student/adversarial"}),
        ({"patch_grid": 1}, {DISCRIMINATOR}, {"discriminator/", "student/adversarial"}),
        (
            {"gamma": 0.0, "max_square_weight": 0.0},
            {DISCRIMINATOR},
            {"discriminator/", "student/adversarial", "student/max_square"},
        ),
        ({"beta": 0.0, "tau": 0.0}, set(), {"generator/dad_st", "generator/dad_ss", "student/dad_ss"}),
    ],
    ids=["no transfer", "gamma 0", "K = 1", "transfer only", "no attention"],
)
def test_what_is_switched_off_is_neither_computed_nor_moved(
    step: Step,
    networks: Networks,
    off: dict[str, Any],
    unmoved: set[str],
    missing: set[str],
) -> None:
    before = snapshot(networks)
    terms = step(replace(PAPER, **off))
    assert changed(networks, before) == {STUDENT, GENERATOR, DISCRIMINATOR} - unmoved
    assert not [name for name in terms if name.startswith(tuple(missing))]


# Passes and BatchNorm: the target forward is shared, and only the policy's statistics are written.


@pytest.mark.parametrize("off", [{}, {"gamma": 0.0, "max_square_weight": 0.0}, {"alpha": 0.0, "beta": 0.0}])
@pytest.mark.parametrize("generator_steps", [1, 3])
def test_target_frames_pass_the_student_once_and_the_source_never(
    step: Step, networks: Networks, generator_steps: int, off: dict[str, Any]
) -> None:
    passes: Counter[tuple[str, tuple[int, ...]]] = Counter()
    for role in (SOURCE, STUDENT):
        getattr(networks, role).register_forward_pre_hook(
            lambda module, args, role=role: passes.update([(role, tuple(args[0].shape[2:]))])
        )
    step(replace(PAPER, **off), generator_steps)
    synthetic = 0 if "alpha" in off else generator_steps + 1
    expected = {(STUDENT, TARGET): 1, (STUDENT, SYNTHETIC): synthetic, (SOURCE, SYNTHETIC): synthetic}
    assert passes == Counter(expected)


def written(networks: Networks) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in networks.student.named_buffers()}


@pytest.mark.parametrize("synthetic_bn", ["batch", "running"])
def test_the_target_pass_writes_the_students_statistics_and_the_synthetic_ones_do_not(
    step: Step, networks: Networks, images: Tensor, synthetic_bn: Any
) -> None:
    alone = copy.deepcopy(networks.student)
    before = written(networks)
    with torch.no_grad(), batch_norm_statistics(alone, "update"):
        alone(images)
    step(replace(PAPER, synthetic_bn=synthetic_bn))
    for name, buffer in alone.named_buffers():
        assert torch.equal(written(networks)[name], buffer), name
        assert not torch.equal(before[name], buffer), name


@pytest.mark.parametrize("synthetic_bn", ["batch", "running"])
def test_frozen_target_statistics_stay_bit_equal(step: Step, networks: Networks, synthetic_bn: Any) -> None:
    before = written(networks)
    step(replace(PAPER, target_bn="running", synthetic_bn=synthetic_bn))
    for name, buffer in written(networks).items():
        assert torch.equal(before[name], buffer), name


def test_a_fresh_student_writes_synthetic_statistics_and_no_target_ones(
    step: Step, networks: Networks, images: Tensor
) -> None:
    objective = replace(PAPER, fresh=True)
    before = written(networks)
    target_forward(networks, images, objective)
    assert all(torch.equal(before[name], buffer) for name, buffer in written(networks).items())
    step(objective, generator_steps=2)
    counts = [written(networks)[name] - before[name] for name in before if name.endswith("num_batches_tracked")]
    assert counts == [3, 3]  # two generator steps and the student's own
    assert not torch.equal(written(networks)["encoder.1.running_mean"], before["encoder.1.running_mean"])


def test_the_target_pass_is_let_go_before_the_generators_begins(
    step: Step, networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits: list[weakref.ref[Tensor]] = []
    alive_at_generator: list[bool] = []

    def watched(*arguments: Any) -> Any:
        target = target_forward(*arguments)
        logits.append(weakref.ref(target.logits))
        return target

    monkeypatch.setattr(steps, "target_forward", watched)
    networks.generator.register_forward_pre_hook(lambda *_: alive_at_generator.append(logits[0]() is not None))
    step(PAPER)
    assert alive_at_generator == [False, False]
