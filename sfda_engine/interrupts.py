"""Ctrl-C (and a scheduler's SIGTERM) asks for a stop after the current step; a second one stops at once."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType


class Interrupts:
    """Context manager: inside it `requested` turns true at the first signal. Signals reach the main thread only."""

    def __init__(self) -> None:
        self.requested = False
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
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def stopped(run_folder: Path | None) -> KeyboardInterrupt:
    """The exception that ends an interrupted run once its checkpoint is written; exit code 130."""
    return KeyboardInterrupt(f"a checkpoint is in {run_folder}; add --run.resume true to go on")
