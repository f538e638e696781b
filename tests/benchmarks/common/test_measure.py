"""Quantiles, turns and resident memory."""

from __future__ import annotations

import time

import pytest
import torch

from benchmarks.common.measure import Timed, peak_memory_mb, quantiles, time_in_turns

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
