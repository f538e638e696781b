"""How many steps a run has."""

from __future__ import annotations

import math

from sfda_engine.config.schema import Config
from sfda_engine.method.steps import uses_transfer


def total_steps(config: Config, frames: int) -> int:
    """Adaptation steps: `run.steps`, or as many as `run.epochs` passes over the frames need."""
    if config.run.epochs is None:
        assert config.run.steps is not None
        return config.run.steps
    per_step = config.target.batch_size * config.run.gradient_accumulation
    return max(1, math.ceil(config.run.epochs * frames / per_step))


def warmup_steps(config: Config) -> int:
    """Generator warm-up steps: none without a generator, none against a student that knows nothing yet."""
    method = config.method
    return method.warmup_steps if uses_transfer(method) and method.student_init == "source" else 0
