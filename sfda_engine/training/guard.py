"""The sentinel: a student that collapses, or a term or weight that is no longer finite, is rolled back in time.

At every log step a healthy run leaves a copy of the student in memory. A strike goes back to it and uses it up, so that
the next strike in a row goes back to the start, and halves the learning rates for the rest of the run. The third ends
the run with the weights that it went back to. No label is read.

Only the student goes back: it is what ships. The generator and the discriminator, which train it, go on from where they
are, but for one whose own weights are no longer finite, which begins anew. All momenta begin anew: those at hand were
gathered on the way into what went wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from sfda_engine.distributed.collectives import any_process
from sfda_engine.judge.collapse import AGREEMENT, Signals
from sfda_engine.method.steps import Networks, Updates
from sfda_engine.training.snapshots import copied

STRIKES = 3
TRAINED = ("student", "generator", "discriminator")

Weights = dict[str, Tensor]
Event = dict[str, str | int]


class Healthy(NamedTuple):
    """The student as the guard last found it."""

    step: int
    """Warm-up and adaptation together."""
    student: Weights
    """On the CPU."""


@dataclass(frozen=True)
class Look:
    """What a log step shows: signals by name (none where weights are broken), and the strike, where there was one."""

    signals: dict[str, float]
    event: Event | None


class Guard:
    """Watches one run; part of every checkpoint. `probe` None looks for what is not finite alone, which is all that
    can be told of a student that has no BN warm start to be compared with.

    The networks must be as the run begins, also where it is resumed: `start` is no part of a checkpoint.
    """

    def __init__(self, networks: Networks, updates: Updates, probe: Callable[[nn.Module], Signals] | None) -> None:
        self.networks, self.updates, self.probe = networks, updates, probe
        self.start: dict[str, Weights] = {name: weights_of(getattr(networks, name)) for name in TRAINED}
        self.healthy: Healthy | None = None
        self.events: list[Event] = []

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return len(self.events) >= STRIKES

    def look(self, step: int, *, terms: dict[str, float]) -> Look:
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
        self.healthy = Healthy(step, weights_of(self.networks.student))
        return Look(named(signals) if signals else {}, None)

    def summary(self) -> dict[str, Any]:
        """For result.json."""
        return {"strikes": len(self.events), "ended_early": self.ended, "events": self.events}

    def state_dict(self) -> dict[str, Any]:
        """The student of the last look, unless it has not moved since: a checkpoint holds that one already."""
        step, student = self.healthy or (None, None)
        now = self.networks.student.state_dict()
        if student is not None and all(torch.equal(value, now[name].cpu()) for name, value in student.items()):
            student = None
        return {"step": step, "student": student, "events": self.events}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The networks must be loaded before, as Accelerate does."""
        step, student = state["step"], state["student"]
        self.healthy = None if step is None else Healthy(step, student or weights_of(self.networks.student))
        self.events = state["events"]

    def _strike(self, step: int, seen: str) -> Event:
        back = self.healthy or Healthy(0, self.start["student"])
        self.healthy = None
        self.networks.student.load_state_dict(back.student)
        done = [f"back to the weights of step {back.step}"]
        for name in ("generator", "discriminator"):
            if any_process(not is_finite(getattr(self.networks, name))):
                getattr(self.networks, name).load_state_dict(self.start[name])
                done.append(f"{name} begun anew")
        self._slow_down()
        number = len(self.events) + 1
        done.append("learning rates halved" if number < STRIKES else "the run ends here")
        event: Event = {"strike": number, "total_step": step, "seen": seen, "done": ", ".join(done)}
        self.events = [*self.events, event | {"back_to": back.step}]
        return self.events[-1]

    def _slow_down(self) -> None:
        """Forget the momenta and halve the rates. Loss scales (fp16) stay: they have learned from what went wrong."""
        for name in TRAINED:
            optimizer = getattr(self.updates, name).optimizer
            optimizer.state.clear()
            for group in optimizer.param_groups:
                group["lr"] /= 2  # the schedule multiplies what it finds, so this lasts


def weights_of(module: nn.Module) -> Weights:
    """A copy of the parameters and buffers, on the CPU."""
    return copied(dict(module.state_dict()))


def is_finite(module: nn.Module) -> bool:
    """Whether all parameters and buffers are; one synchronization."""
    tensors: list[Tensor] = [value for value in module.state_dict().values() if value.is_floating_point()]
    return bool(get_total_norm(tensors, norm_type=math.inf).isfinite())


def named(signals: Signals) -> dict[str, float]:
    """The signals as entries of a line of metrics.jsonl."""
    return {f"guard/{name}": value for name, value in asdict(signals).items()}


def describe(signals: Signals) -> str:
    """A collapse in words."""
    seen = "predictions drift away" if signals.agreement < AGREEMENT else "classes vanish while confidence climbs"
    return (
        f"{seen}: against the start, the effective number of classes is {signals.classes_kept:.0%}, mean entropy "
        f"{signals.entropy_kept:.0%}, and {signals.agreement:.0%} of the pixels agree"
    )
