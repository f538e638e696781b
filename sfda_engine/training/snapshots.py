"""Weights of the student on the way, to select from after the last step; part of every checkpoint."""

from __future__ import annotations

from typing import Any

from accelerate.utils import recursively_apply
from torch import Tensor, nn

PARTS = 2


class Snapshots:
    """Copies in memory, on the CPU, after each of PARTS equal parts of the steps but the last: that is the student."""

    def __init__(self, steps: int) -> None:
        self.due = {steps * part // PARTS for part in range(1, PARTS)} - {0}
        self.taken: dict[int, dict[str, Tensor]] = {}

    def take(self, step: int, student: nn.Module) -> None:
        """Copy the weights after `step` steps, if that is due."""
        if step in self.due:
            self.taken[step] = copied(dict(student.state_dict()))

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken = dict(state["taken"])


def copied(states: Any) -> Any:
    """Nested states with every tensor copied to the CPU."""
    return recursively_apply(lambda tensor: tensor.detach().to("cpu", copy=True), states)
