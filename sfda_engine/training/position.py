"""Where a run stands, and how many steps it has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sfda_engine.config.schema import Config
from sfda_engine.method.steps import uses_transfer


@dataclass
class Position:
    """Steps done and seconds spent; part of every checkpoint."""

    warmup: int = 0
    adaptation: int = 0
    seconds: float = 0.0

    @property
    def total(self) -> int:
        return self.warmup + self.adaptation

    def state_dict(self) -> dict[str, Any]:
        return {"warmup": self.warmup, "adaptation": self.adaptation, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.warmup, self.adaptation, self.seconds = state["warmup"], state["adaptation"], state["seconds"]


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
