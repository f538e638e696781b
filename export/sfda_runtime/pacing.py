"""Frames at the rate of a camera: absolute due times, and a queue of one in which the newer frame wins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sfda_runtime.sources import Frame


@dataclass(frozen=True)
class Arrival:
    """A frame to be segmented, and how many older ones were dropped just before it."""

    frame: Frame
    dropped: int = 0


def every_frame(frames: Iterable[Frame]) -> Iterator[Arrival]:
    """Offline: each frame as fast as it goes, none dropped."""
    return map(Arrival, frames)


def pace(
    frames: Iterable[Frame],
    fps: float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Arrival]:
    """Stored frames as a camera would give them: frame k is there at start + k / fps, whatever the others took.

    A frame that is still waiting when the next one arrives is dropped.
    """
    stream = iter(frames)
    start, number, dropped = clock(), 0, 0
    waiting = next(stream, None)
    while waiting is not None:
        following = next(stream, None)
        if following is not None and clock() >= start + (number + 1) / fps:
            dropped += 1
        else:
            while (early := start + number / fps - clock()) > 0:
                sleep(early)
            yield Arrival(waiting, dropped)
            dropped = 0
        waiting, number = following, number + 1


def newest(frames: Iterable[Frame]) -> Iterator[Arrival]:
    """A live source: a thread takes every frame from the device, and the newest one is segmented."""
    slot = _Slot()
    thread = threading.Thread(target=slot.fill, args=(frames,), daemon=True)
    thread.start()
    try:
        while (arrival := slot.take()) is not None:
            yield arrival
    finally:
        slot.stop = True


class _Slot:
    """A queue of one frame between the device's thread and the consumer."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._dropped = 0
        self._ended = False
        self._failure: Exception | None = None
        self.stop = False

    def fill(self, frames: Iterable[Frame]) -> None:
        try:
            for frame in frames:
                with self._changed:
                    self._dropped += self._frame is not None
                    self._frame = frame
                    self._changed.notify()
                if self.stop:
                    return
        except Exception as error:  # belongs to the consumer, who raises it
            self._failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def take(self) -> Arrival | None:
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended)
            if self._frame is None:
                if self._failure is not None:
                    raise self._failure
                return None
            arrival = Arrival(self._frame, self._dropped)
            self._frame, self._dropped = None, 0
            return arrival
