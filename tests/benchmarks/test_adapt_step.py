"""The naive step and the engine's give the same losses, and the benchmark refuses an engine that does not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from benchmarks import adapt_step
from benchmarks.adapt_step import Difference, compare_steps, difference, measure, ratios
from benchmarks.common import equations
from benchmarks.common.step.setting import Setting, follow, prepare
from sfda_engine.config.presets import PRESETS
from sfda_engine.method import steps

TINY = Setting(provider="engine", size=(48, 32), batch=4)


@pytest.fixture(autouse=True)
def _accelerate_as_it_was() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.parametrize("batch", [4, 3])
def test_naive_and_engine_agree_term_by_term(batch: int) -> None:
    found = compare_steps(dataclasses.replace(TINY, batch=batch), steps=4)
    assert found.is_right("no")
    assert found.before < 2e-4


@pytest.mark.parametrize("changes", [{"terms": "printed"}, {"temperature": None}])
def test_they_agree_in_every_form_of_the_terms(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "paper", PRESETS["paper"] | changes)
    assert compare_steps(TINY, steps=2).is_right("no")


def test_following_makes_the_states_equal() -> None:
    engine, plain = prepare(TINY), prepare(dataclasses.replace(TINY, provider="naive"))
    for prepared in (engine, plain):
        prepared.step()
    follow(plain, engine)
    for role in ("student", "generator", "discriminator"):
        states = [getattr(prepared.networks, role).state_dict() for prepared in (engine, plain)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        moments = getattr(plain.optimizers, role).state_dict()["state"]
        theirs = getattr(engine.optimizers, role).optimizer.optimizer.state_dict()["state"]
        assert moments.keys() == theirs.keys() != set()


def test_states_do_not_share_memory_after_following() -> None:
    engine, plain = prepare(TINY), prepare(dataclasses.replace(TINY, provider="naive"))
    engine.step()
    follow(plain, engine)
    before = {name: tensor.clone() for name, tensor in engine.networks.generator.state_dict().items()}
    plain.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.networks.generator.state_dict().items())


@pytest.mark.parametrize("provider", ["naive", "engine"])
def test_totals_are_the_equations_of_the_default_method(provider: Any) -> None:
    """The loss that student and generator descend on is too dull a sum for a small term's weight to show in it."""
    terms = {name: float(term) for name, term in prepare(dataclasses.replace(TINY, provider=provider)).step().items()}
    bounded = math.log1p(terms["generator/mae"]) + 0.5 * math.log1p(terms["generator/dad_ss"])
    eq11 = terms["generator/bns"] + 0.5 * terms["generator/dad_st"] - bounded
    assert terms["generator/total"] == pytest.approx(eq11, rel=1e-5)
    eq16 = 0.1 * terms["student/max_square"] + 0.01 * terms["student/adversarial"]
    eq16 += terms["student/mae"] + 0.5 * terms["student/dad_ss"]
    assert terms["student/total"] == pytest.approx(eq16, rel=1e-5)


@pytest.mark.parametrize(("module", "term"), [(equations, "map_kl"), (equations, "attend"), (steps, "mae_loss")])
def test_a_term_that_is_off_by_two_percent_is_seen(module: Any, term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(module, term)
    monkeypatch.setattr(module, term, lambda *arguments: 1.02 * right(*arguments))
    assert not compare_steps(TINY, steps=1).is_right("no")


def test_no_time_for_an_engine_whose_losses_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapt_step, "compare_steps", lambda *_: Difference(before=0.5))
    plain = dataclasses.replace(TINY, provider="naive")
    rows, profiles = measure([plain, TINY], seconds=0.0, least=1, memory=False, steps=1)
    assert rows[0].p50_ms is not None
    assert rows[0].images_per_second == pytest.approx(4e3 / rows[0].p50_ms)
    assert rows[1].p50_ms is None
    assert rows[1].note.startswith("wrong")
    assert list(profiles) == ["naive fp32"]
    assert ratios(rows) == []


def test_differences() -> None:
    one, two = torch.tensor(1.0), torch.tensor(1.1)
    assert difference({"generator/bns": one}, {"generator/bns": one}) == Difference(0.0, 0.0)
    assert difference({"student/mae": two}, {"student/mae": one}).after == pytest.approx(0.1)
    assert difference({"generator/bns": two}, {"student/mae": one}).before == float("inf")
    assert difference({"generator/bns": torch.tensor(float("nan"))}, {"generator/bns": one}).before == float("inf")


def test_phases_cover_the_step_of_both() -> None:
    expected = {
        *("ranking", "patches for D", "discriminator", "attention KL", "attention L1", "BN statistics"),
        *("source forward", "student forward", "generator forward", "optimizers", "rest of the step"),
        *("student backward", "generator backward", "discriminator backward"),
    }
    for provider in ("naive", "engine"):
        found = adapt_step.phases_of(prepare(dataclasses.replace(TINY, provider=provider)), steps=1)
        assert found.times.keys() == found.live.keys() == expected
        assert all(milliseconds > 0 for milliseconds in found.times.values())
        assert found.times["rest of the step"] < 0.5 * sum(found.times.values())
        assert all(mebibytes > 0 for mebibytes in found.live.values())
        assert "convolution" in found.operators


def test_a_shared_forward_pass_is_a_step_too() -> None:
    prepared = prepare(dataclasses.replace(TINY, provider="engine, shared forward"))
    before = {name: tensor.clone() for name, tensor in prepared.networks.student.state_dict().items()}
    first, second = prepared.step(), prepared.step()
    assert all(bool(term.isfinite()) for term in second.values())
    assert first["generator/total"] != second["generator/total"]
    moved = prepared.networks.student.state_dict()
    assert any(not torch.equal(moved[name], before[name]) for name in before)
    assert all(p.grad is None for p in prepared.networks.student.parameters())
