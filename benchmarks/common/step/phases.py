"""Named ranges of a step for torch.profiler: the time that each takes for itself, and what is alive while it runs.

Ranges may nest: a phase is charged what its inner phases do not take, so the phases of a step add up to the step.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

import sfda_engine.method.steps as engine
from sfda_engine.method.steps import Networks, Updates

PREFIX = "phase: "
REST = "rest of the step"

# the engine's functions, by the name that adaptation_step and its stages call them by
ENGINE_PHASES = {
    "rank_target": "ranking",
    "target_patches": "patches for D",
    "discriminator_loss": "discriminator",
    "adversarial_loss": "discriminator",
    "dad_st_loss": "attention KL",
    "dad_ss_loss": "attention L1",
    "bns_loss": "BN statistics",
}


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Everything inside belongs to `name`. While a profiler looks, the device is waited for at both ends."""
    _synchronize()
    with record_function(PREFIX + name):
        yield
        _synchronize()


def _synchronize() -> None:
    if torch.autograd._profiler_enabled() and torch.cuda.is_available():
        torch.cuda.synchronize()


def ranged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` inside the phase `name`."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        with phase(name):
            return function(*arguments, **keywords)

    return call


@contextmanager
def engine_phases(networks: Networks, updates: Updates) -> Iterator[Updates]:
    """Give the engine's step the phases of the naive one; yields the updates to run it with."""
    with ExitStack() as stack:
        for function, name in ENGINE_PHASES.items():
            stack.enter_context(patch.object(engine, function, ranged(name, getattr(engine, function))))
        for role in ("source", "student", "generator"):
            stack.enter_context(_forward_phase(getattr(networks, role), role))
        roles = {}
        for role in ("student", "generator", "discriminator"):
            update = getattr(updates, role)
            accelerator = copy.copy(update.accelerator)  # state is shared; only its `backward` is this role's own
            accelerator.backward = ranged(f"{role} backward", update.accelerator.backward)
            roles[role] = dataclasses.replace(update, accelerator=accelerator)
            stack.enter_context(patch.object(update.optimizer, "step", ranged("optimizers", update.optimizer.step)))
        yield Updates(**roles)


@contextmanager
def _forward_phase(network: nn.Module, role: str) -> Iterator[None]:
    with patch.object(network, "forward", ranged(f"{role} forward", network.forward)):
        yield


def profile_steps(step: Callable[[], Any], *, steps: int, device: torch.device) -> tuple[dict[str, float], str]:
    """Run `step` under torch.profiler: milliseconds a step of each phase by falling share, and the operator table."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    step()
    with profile(activities=activities) as profiler:
        for _ in range(steps):
            with phase(REST):
                step()
    spans = [
        (event.time_range.start, event.time_range.end, event.name.removeprefix(PREFIX))
        for event in profiler.events() or []
        if event.name.startswith(PREFIX) and event.device_type == torch.autograd.DeviceType.CPU
    ]
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table = profiler.key_averages().table(sort_by=key, row_limit=15, max_name_column_width=60)
    own = {name: total / 1e3 / steps for name, total in exclusive_times(spans).items()}
    return dict(sorted(own.items(), key=lambda item: -item[1])), table


def exclusive_times(spans: Iterable[tuple[float, float, str]]) -> dict[str, float]:
    """Time that each name has for itself: spans (start, end, name) nest properly, the inner one takes it."""
    totals: dict[str, float] = {}
    open_spans: list[tuple[float, str]] = []
    for start, end, name in sorted(spans, key=lambda span: (span[0], -span[1])):
        while open_spans and open_spans[-1][0] <= start:
            open_spans.pop()
        if open_spans:
            totals[open_spans[-1][1]] -= end - start
        totals[name] = totals.get(name, 0.0) + end - start
        open_spans.append((end, name))
    return totals


def live_memory(step: Callable[[], Any]) -> dict[str, float]:
    """Bytes of live tensors at the peak of each phase of one step on a CPU, above those at its start, in MiB.

    Optimizer states stand before the step begins. Scratch memory of convolutions and what the C library keeps after a
    `free` are not tensors: they are in the resident size alone.
    """
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler, phase(REST):
        step()
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    events = results.events()
    spans = [
        (event.start_ns(), event.start_ns() + event.duration_ns(), event.name().removeprefix(PREFIX))
        for event in events
        if event.name().startswith(PREFIX)
    ]
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    return dict(sorted(live_peaks(spans, changes).items(), key=lambda item: -item[1]))


def live_peaks(spans: Iterable[tuple[int, int, str]], changes: Iterable[tuple[int, int]]) -> dict[str, float]:
    """Peak of the running sum of `changes` (time, bytes) in each span (start, end, name), MiB; the innermost counts."""
    known = list(spans)
    live, peaks = 0, dict.fromkeys((name for _, _, name in known), 0.0)
    for moment, size in sorted(changes):
        live += size
        around = [span for span in known if span[0] <= moment <= span[1]]
        if around:
            name = max(around)[2]
            peaks[name] = max(peaks[name], live / 2**20)
    return peaks
