"""Quantiles, turns, phases and resident memory."""

from __future__ import annotations

import time

import pytest
import torch

from benchmarks.common.measure import Timed, peak_memory_mb, quantiles, time_in_turns
from benchmarks.common.step.phases import exclusive_times, live_memory, live_peaks, phase

CPU = torch.device("cpu")


def test_quantiles() -> None:
    assert quantiles([float(value) for value in range(11)]) == (2.0, 5.0, 8.0)
    assert quantiles([3.0]) == (3.0, 3.0, 3.0)


def test_candidates_take_turns_and_preparation_is_not_timed() -> None:
    order: list[str] = []
    slow = Timed(lambda _: order.append("slow"), lambda: time.sleep(0.02))
    fast = Timed(lambda value: order.append(value), lambda: "fast")
    times = time_in_turns({"slow": slow, "fast": fast}, CPU, seconds=0.0, least=3, warmup=1)
    assert order == ["slow", "fast"] * 4
    assert times["slow"].p50 < 20


def test_nothing_to_time_ends() -> None:
    assert time_in_turns({}, CPU, seconds=0.0) == {}


def allocate(megabytes: int) -> Timed:
    kept = torch.ones(50, 2**18)  # 50 MiB of inputs, not counted
    return Timed(lambda _: kept.sum() + torch.ones(megabytes, 2**18).sum())


def test_peak_memory_counts_what_a_call_takes_above_its_inputs() -> None:
    assert peak_memory_mb(allocate, 40, device=CPU) == pytest.approx(40, abs=8)


def test_nested_phases_are_charged_for_themselves() -> None:
    spans = [(0.0, 10.0, "step"), (1.0, 4.0, "loss"), (2.0, 3.0, "kernel"), (4.0, 6.0, "loss"), (10.0, 12.0, "step")]
    assert exclusive_times(reversed(spans)) == {"step": 7.0, "loss": 4.0, "kernel": 1.0}


def test_live_memory_is_charged_to_the_innermost_phase() -> None:
    mib = 2**20
    spans = [(0, 10, "step"), (2, 5, "loss")]
    changes = [(1, 4 * mib), (3, 8 * mib), (4, -6 * mib), (6, mib), (9, -7 * mib), (12, 50 * mib)]
    assert live_peaks(spans, reversed(changes)) == {"step": 7.0, "loss": 12.0}


def test_live_memory_is_that_of_the_tensors_a_call_keeps() -> None:
    def step() -> None:
        with phase("big"):
            kept = torch.ones(10, 2**18)
        with phase("small"):
            del kept
            torch.ones(2, 2**18)

    found = live_memory(step)
    assert found["big"] == pytest.approx(10, abs=0.01)
    assert found["small"] == pytest.approx(2, abs=0.01)
