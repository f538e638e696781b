"""From section `method` to the terms of a run, the generator's size and the number of steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sfda_engine.config.presets import PRESETS
from sfda_engine.config.schema import Config, MethodConfig, RunConfig, TargetConfig
from sfda_engine.method.objective import Objective
from sfda_engine.method.teacher import CALIBRATION_FRAMES
from sfda_engine.pipelines.objective import frames_to_label, objective_of, synthetic_size, total_steps, warmup_steps

PAPER, LITERAL = (replace(MethodConfig(), **PRESETS[name]) for name in ("paper", "literal"))


def test_the_paper_made_stable() -> None:
    assert objective_of(PAPER) == Objective(alpha=1.0, beta=0.5, tau=0.5, gamma=0.01, max_square_weight=0.1)


def test_the_paper_as_printed() -> None:
    assert objective_of(LITERAL) == Objective(
        alpha=1.0,
        beta=0.5,
        tau=0.5,
        gamma=0.01,
        max_square_weight=1.0,
        temperature=None,
        printed=True,
        synthetic_bn="running",
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("alpha", 0.3),
        ("beta", 0.3),
        ("tau", 0.3),
        ("gamma", 0.3),
        ("bns_weight", 0.3),
        ("max_square_weight", 0.3),
        ("pseudo_label_weight", 0.3),
        ("patch_grid", 3),
        ("temperature", 0.3),
        ("synthetic_bn", "running"),
        ("target_bn", "running"),
    ],
)
def test_each_key_sets_its_own_field(key: str, value: Any) -> None:
    assert objective_of(replace(PAPER, **{key: value})) == replace(objective_of(PAPER), **{key: value})


def test_a_fresh_student_and_printed_terms() -> None:
    assert objective_of(replace(PAPER, student_init="fresh")) == replace(objective_of(PAPER), fresh=True)
    assert objective_of(replace(PAPER, terms="printed")) == replace(objective_of(PAPER), printed=True)


def test_synthetic_images_have_half_the_size_of_what_a_step_sees() -> None:
    assert synthetic_size(Config(target=TargetConfig(size=(256, 192)))) == (128, 96)
    assert synthetic_size(Config(target=TargetConfig(size=(256, 128), crop=(128, 96)))) == (64, 48)
    stated = Config(target=TargetConfig(size=(256, 192)), method=replace(PAPER, synthetic_size=(64, 32)))
    assert synthetic_size(stated) == (64, 32)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 70),
        ({"alpha": 0.0}, 70),
        ({"alpha": 0.0, "beta": 0.0}, 0),
        ({"student_init": "fresh"}, 0),
    ],
)
def test_the_generator_warms_up_where_there_is_one_and_a_student_to_warm_up_against(
    changes: dict[str, Any], expected: int
) -> None:
    assert warmup_steps(Config(method=replace(PAPER, warmup_steps=70, **changes))) == expected


def test_epochs_win_over_steps() -> None:
    target = TargetConfig(batch_size=4)
    assert total_steps(Config(run=RunConfig(steps=7), target=target), 100) == 7
    run = RunConfig(steps=7, epochs=3, gradient_accumulation=2)
    assert total_steps(Config(run=run, target=target), 101) == 38  # 303 frames in steps of 8
    assert total_steps(Config(run=RunConfig(epochs=1), target=target), 1) == 1


@pytest.mark.parametrize(
    ("run", "weight", "count"),
    [
        (RunConfig(steps=120), 1.0, 240),  # 120 steps of 8 frames, each seen four times
        (RunConfig(steps=120, gradient_accumulation=2), 1.0, 480),
        (RunConfig(steps=6000), 1.0, 10_000),
        (RunConfig(steps=1), 1.0, CALIBRATION_FRAMES),
        (RunConfig(epochs=1), 1.0, 10_000),  # the user wants all of them seen
        (RunConfig(steps=60), 0.0, 10_000),
    ],
)
def test_no_more_frames_are_labelled_than_the_run_makes_use_of(run: RunConfig, weight: float, count: int) -> None:
    config = Config(run=run, target=TargetConfig(batch_size=8), method=MethodConfig(pseudo_label_weight=weight))
    assert frames_to_label(config, 10_000) == count
    assert frames_to_label(config, 5) == 5
