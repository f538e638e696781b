"""Signals that are planted, and states of a run that are compared to the bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sfda_engine.judge.collapse import (
    Signals,
)
from sfda_engine.pipelines.training import Trainer
from sfda_engine.training.guard import TRAINED, Guard
from sfda_engine.training.snapshots import copied

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


def scripted(guard: Guard, script: list[Signals]) -> None:
    looks = iter(script)
    guard.probe = lambda student: next(looks)


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
