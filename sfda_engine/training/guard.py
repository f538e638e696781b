"""The sentinel: a student that collapses, or a term or weight that is no longer finite, is rolled back in time.

At every log step a healthy run leaves a snapshot in memory. A strike goes back to the newest one, takes it off the
ring, so that the next strike goes back further, and halves the learning rates for the rest of the run. The third ends
the run with the weights that it went back to. No label is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from sfda_engine.distributed.collectives import any_process
from sfda_engine.judge.collapse import AGREEMENT, Signals
from sfda_engine.method.steps import Networks, Updates
from sfda_engine.training.snapshots import copied

STRIKES = 3
RING = 2
"""Snapshots that are kept beside the start's. Three strikes in a row end at the start."""
TRAINED = ("student", "generator", "discriminator")

Snapshot = dict[str, Any]
"""`step` (warm-up and adaptation together), and state dicts on the CPU: `networks` and `optimizers` by name."""
Event = dict[str, str | int]


@dataclass(frozen=True)
class Look:
    """What a log step shows: signals by name (none where weights are broken), and the strike, where there was one."""

    signals: dict[str, float]
    event: Event | None


class Guard:
    """Watches one run; part of every checkpoint. `probe` None looks for what is not finite alone, which is all that
    can be told of a student that has no BN warm start to be compared with."""

    def __init__(self, networks: Networks, updates: Updates, probe: Callable[[nn.Module], Signals] | None) -> None:
        self.networks, self.updates, self.probe = networks, updates, probe
        self.start = self._take(0)
        self.ring: list[Snapshot] = []
        self.events: list[Event] = []

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return len(self.events) >= STRIKES

    def look(self, step: int, *, adapting: bool, terms: dict[str, float]) -> Look:
        """Judge the networks after `step`, by `terms` (means since the last look) and on the probe's frames.

        Every process must call this at the same time; all decide alike.
        """
        broken = [name for name, value in terms.items() if not math.isfinite(value)]
        broken += [f"weights of the {name}" for name in TRAINED if not is_finite(getattr(self.networks, name))]
        signals = None
        if any_process(bool(broken)):
            return Look({}, self._strike(step, f"{', '.join(broken) or 'a term of another process'} not finite"))
        if self.probe is not None:
            signals = self.probe(self.networks.student)
            if not signals.finite:
                return Look({}, self._strike(step, "predictions on target frames not finite"))
            if signals.collapsed:
                return Look(named(signals), self._strike(step, describe(signals)))
        self._keep(step, adapting)
        return Look(named(signals) if signals else {}, None)

    def summary(self) -> dict[str, Any]:
        """For result.json."""
        return {"strikes": len(self.events), "ended_early": self.ended, "events": self.events}

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start, "ring": self.ring, "events": self.events}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start, self.ring, self.events = state["start"], state["ring"], state["events"]

    def _keep(self, step: int, adapting: bool) -> None:
        snapshot = self._take(step)
        if adapting:
            self.ring = [*self.ring, snapshot][-RING:]
        else:  # the student has not moved yet: its start with a better generator
            self.start = snapshot

    def _strike(self, step: int, seen: str) -> Event:
        snapshot = self.ring.pop() if self.ring else self.start
        self._restore(snapshot)
        done = f"back to the weights of step {snapshot['step']}"
        number = len(self.events) + 1
        done += ", learning rates halved" if number < STRIKES else ", the run ends here"
        event: Event = {"strike": number, "total_step": step, "seen": seen, "done": done, "back_to": snapshot["step"]}
        self.events = [*self.events, event]
        return event

    def _take(self, step: int) -> Snapshot:
        states = {
            "networks": {name: dict(getattr(self.networks, name).state_dict()) for name in TRAINED},
            "optimizers": {name: getattr(self.updates, name).optimizer.state_dict() for name in TRAINED},
        }
        return {"step": step} | copied(states)

    def _restore(self, snapshot: Snapshot) -> None:
        """Loss scales (fp16) stay: they have learned from what went wrong."""
        states = copied(snapshot)  # an optimizer goes on writing to the tensors that it was given
        for name in TRAINED:
            optimizer = getattr(self.updates, name).optimizer
            rates = [group["lr"] for group in optimizer.param_groups]
            getattr(self.networks, name).load_state_dict(states["networks"][name])
            optimizer.load_state_dict(states["optimizers"][name])
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate / 2  # the schedule multiplies what it finds, so this lasts


def is_finite(module: nn.Module) -> bool:
    """Whether all parameters and buffers are; one synchronization."""
    tensors: list[Tensor] = [value for value in module.state_dict().values() if value.is_floating_point()]
    return bool(get_total_norm(tensors, norm_type=math.inf).isfinite())


def named(signals: Signals) -> dict[str, float]:
    """The signals as entries of a line of metrics.jsonl."""
    return {f"guard_{name}": value for name, value in asdict(signals).items()}


def describe(signals: Signals) -> str:
    """A collapse in words."""
    seen = "predictions drift away" if signals.agreement < AGREEMENT else "classes vanish while confidence climbs"
    return (
        f"{seen}: against the start, the effective number of classes is {signals.classes_kept:.0%}, mean entropy "
        f"{signals.entropy_kept:.0%}, and {signals.agreement:.0%} of the pixels agree"
    )
