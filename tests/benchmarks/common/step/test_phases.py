"""Phases of a step: the time that each takes for itself, and what is alive while it runs."""

from __future__ import annotations

import pytest
import torch

from benchmarks.common.step.phases import exclusive_times, live_memory, live_peaks, phase


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
