"""Where a run stands: steps done by phase, and seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

PhaseName = Literal["source", "generator_warmup", "adaptation"]
"""As metrics.jsonl calls the phases."""


@dataclass
class Position:
    """Steps done by phase and seconds spent; part of every checkpoint."""

    steps: dict[PhaseName, int] = field(default_factory=dict)
    seconds: float = 0.0

    def done(self, phase: PhaseName) -> int:
        return self.steps.get(phase, 0)

    @property
    def total(self) -> int:
        """Of all phases."""
        return sum(self.steps.values())

    def state_dict(self) -> dict[str, Any]:
        return {"steps": dict(self.steps), "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.seconds = dict(state["steps"]), state["seconds"]
