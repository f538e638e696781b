"""Pacing by a clock that the test owns: absolute due times, the newer frame wins, drops are counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from sfda_runtime.errors import UsageError
from sfda_runtime.pacing import every_frame, newest, pace
from sfda_runtime.sources import Frame


class Clock:
    """Time that passes only by sleeping and working; sleeping may end early, as a system's may."""

    def __init__(self, early: float = 0.0) -> None:
        self.now, self.early = 100.0, early

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += max(1e-9, seconds if seconds <= self.early else seconds - self.early)


def frames(count: int) -> list[Frame]:
    return [Frame(str(n), lambda: np.zeros(1)) for n in range(count)]


def drive(count: int, fps: float, work: list[float], clock: Clock) -> list[tuple[str, int, float]]:
    """(name, dropped before, time since the start) of each frame that a consumer gets who works so long on each."""
    seen = []
    for turn, arrival in enumerate(pace(frames(count), fps, clock, clock.sleep)):
        seen.append((arrival.frame.name, arrival.dropped, round(clock.now - 100, 6)))
        clock.now += work[turn % len(work)]
    return seen


def test_a_quick_consumer_gets_every_frame_when_due() -> None:
    assert drive(4, 10, [0.03], Clock()) == [("0", 0, 0.0), ("1", 0, 0.1), ("2", 0, 0.2), ("3", 0, 0.3)]


def test_due_times_do_not_drift() -> None:
    """sleep(period) would be 0.03 late at each frame."""
    seen = drive(1000, 10, [0.03], Clock(early=0.004))
    assert seen[-1] == ("999", 0, 99.9)


def test_a_slow_consumer_gets_the_newest_frame() -> None:
    """250 ms of work at 10 fps: when it is done, frame 2 has just come, and 1 is dropped."""
    assert drive(6, 10, [0.25], Clock()) == [("0", 0, 0.0), ("2", 1, 0.25), ("5", 2, 0.5)]


def test_one_hiccup_drops_once() -> None:
    seen = drive(6, 10, [0.01, 0.21, 0.01, 0.01, 0.01, 0.01], Clock())
    assert [(name, dropped) for name, dropped, _ in seen] == [("0", 0), ("1", 0), ("3", 1), ("4", 0), ("5", 0)]


def test_the_last_frame_is_never_dropped() -> None:
    assert drive(3, 10, [9.0], Clock())[-1][:2] == ("2", 1)


def test_dropped_frames_are_not_decoded() -> None:
    clock, read = Clock(), []
    stored = [Frame(str(n), lambda n=n: read.append(n)) for n in range(5)]  # type: ignore[misc]
    for arrival in pace(stored, 10, clock, clock.sleep):
        arrival.frame.read()
        clock.now += 0.25
    assert read == [0, 2, 4]


def test_offline_never_drops() -> None:
    assert [(a.frame.name, a.dropped) for a in every_frame(frames(3))] == [("0", 0), ("1", 0), ("2", 0)]


def test_no_frames() -> None:
    assert drive(0, 10, [0.0], Clock()) == []


def test_a_live_source_keeps_the_newest_frame_only() -> None:
    taken, come = threading.Event(), threading.Event()

    def device() -> Iterator[Frame]:
        first, *middle, last = frames(5)
        yield first
        assert taken.wait(10)
        yield from middle
        yield last
        come.set()

    arrivals = newest(device())
    first = next(arrivals)
    taken.set()
    assert come.wait(10)
    rest = list(arrivals)
    assert (first.frame.name, first.dropped) == ("0", 0)
    assert [(a.frame.name, a.dropped) for a in rest] == [("4", 3)]


def test_a_device_that_fails_ends_the_run() -> None:
    def device() -> Iterator[Frame]:
        yield frames(1)[0]
        raise UsageError("unplugged")

    arrivals = newest(device())
    next(arrivals)
    with pytest.raises(UsageError, match="unplugged"):
        next(arrivals)
