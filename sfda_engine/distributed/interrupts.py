"""Ctrl-C (and a scheduler's SIGTERM) asks for a stop after the current step; a second one stops at once.

A launcher of several processes passes on what they have got themselves: that is not a second one.
"""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType

from sfda_engine.distributed.collectives import processes

ECHO = 2.0
"""Seconds within which a repeated signal is the launcher's echo of the first."""


class Interrupts:
    """Context manager: inside it `requested` turns true at the first signal. Signals reach the main thread only."""

    def __init__(self) -> None:
        self.requested = False
        self._first = 0.0
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        echo = processes() > 1 and time.monotonic() - self._first < ECHO
        if self.requested and not echo:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self._first = True, time.monotonic()


def stopped(run_folder: Path | None) -> KeyboardInterrupt:
    """The exception that ends an interrupted run once its checkpoint is written; exit code 130."""
    return KeyboardInterrupt(f"a checkpoint is in {run_folder}; add --run.resume true to go on")
