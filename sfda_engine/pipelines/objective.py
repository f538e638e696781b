"""From section `method` of a configuration to the objective of a run, and how many steps it has."""

from __future__ import annotations

import math

from sfda_engine.config.schema import Config, MethodConfig
from sfda_engine.data.images import ImageSize, stated
from sfda_engine.method.objective import Objective
from sfda_engine.method.teacher import CALIBRATION_FRAMES

STEPS = {"recommended": 60, "paper": 600, "literal": 600}


def total_steps(config: Config, frames: int) -> int:
    """Adaptation steps: `run.steps`, or as many as `run.epochs` passes over the frames need, or the preset's."""
    if config.run.epochs is None:
        return config.run.steps or STEPS[config.method.preset]
    return max(1, math.ceil(config.run.epochs * frames / frames_per_step(config)))


def frames_per_step(config: Config) -> int:
    """Target frames that all processes together show the student in a step."""
    return config.target.batch_size * config.run.gradient_accumulation


def frames_to_label(config: Config, frames: int) -> int:
    """How many of `frames` a run trains on: all, or where each costs a pseudo-label, as many as it shows four times.

    Labelling a frame by several views costs more than a step on it, and data sets can be of any length.
    """
    if config.method.pseudo_label_weight == 0 or config.run.epochs is not None:
        return frames
    return min(frames, max(CALIBRATION_FRAMES, total_steps(config, frames) * frames_per_step(config) // 4))


def warmup_steps(config: Config) -> int:
    """Generator warm-up steps: none without a generator, none against a student that knows nothing yet."""
    objective = objective_of(config.method)
    return config.method.warmup_steps if objective.uses_transfer and not objective.fresh else 0


def objective_of(method: MethodConfig) -> Objective:
    """The terms that a run descends on."""
    return Objective(
        alpha=method.alpha,
        beta=method.beta,
        tau=method.tau,
        gamma=method.gamma,
        bns_weight=method.bns_weight,
        max_square_weight=method.max_square_weight,
        pseudo_label_weight=method.pseudo_label_weight,
        patch_grid=method.patch_grid,
        temperature=method.temperature,
        printed=method.terms == "printed",
        target_bn=method.target_bn,
        synthetic_bn=method.synthetic_bn,
        fresh=method.student_init == "fresh",
    )


def synthetic_size(config: Config) -> ImageSize:
    """Of the generator's images: half of what a training step sees, unless it is stated."""
    assert config.target.seen is not None  # chosen by now
    width, height = config.target.seen
    return stated(config.method.synthetic_size) or ImageSize(width // 2, height // 2)
