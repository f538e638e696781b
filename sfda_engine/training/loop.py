"""The one training loop under Accelerate: phases of steps, logging, checkpoints, the guard's looks, Ctrl-C.

Source training, adaptation and the benchmarks hand it their steps; what a step does is not its business.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from sfda_engine.distributed.collectives import any_process
from sfda_engine.distributed.interrupts import Interrupts, stopped
from sfda_engine.errors import TrainingError
from sfda_engine.run_folder.checkpoint import load_newest, save_checkpoint
from sfda_engine.training.guard import Guard
from sfda_engine.training.metrics import Metrics
from sfda_engine.training.position import PhaseName, Position
from sfda_engine.training.progress import RunProgress

log = logging.getLogger(__name__)

B = TypeVar("B")

TITLES: dict[PhaseName, str] = {
    "source": "source training",
    "generator_warmup": "generator warm-up",
    "adaptation": "adaptation",
}


class Batch(Protocol):
    """What a step takes; the loop only counts its frames."""

    @property
    def images(self) -> Tensor: ...


@dataclass(frozen=True)
class Phase:
    """A stretch of equal steps."""

    name: PhaseName
    steps: int
    batches: Callable[[int, int], Iterator[tuple[int, list[Any]]]]
    """(start, stop) -> index and batches (`Batch`) of every step; several batches where gradients are accumulated."""
    step: Callable[[int, Any], dict[str, Tensor]]
    """Index and batch -> detached loss terms by name; moves the weights once the gradients of a step are whole."""
    schedule: LRScheduler | None = None
    """Moved on after every step."""


def in_steps(batches: Iterable[B], *, start: int, repeat: int) -> Iterator[tuple[int, list[B]]]:
    """Index and batches of every step from `start` on, `repeat` (gradient accumulation) of them a step."""
    rest = iter(batches)
    for index in itertools.count(start):
        if not (own := list(itertools.islice(rest, repeat))):
            return
        yield index, own


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """In steps, those of all phases counted together for checkpoints, those of the phase for log lines."""

    log_every: int
    checkpoint_every: int
    keep_last: int


class Loop:
    """Runs phases on prepared networks, from wherever the newest checkpoint left off.

    `trained` are the networks by name that gradients move; `after_step(phase, step)` is called when a step is logged.
    `schedule` is the one whose learning rate the log shows. `folder` None writes nothing.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        trained: Mapping[str, nn.Module],
        schedule: LRScheduler,
        *,
        folder: Path | None,
        intervals: Intervals,
        after_step: Callable[[PhaseName, int], None] = lambda phase, step: None,
    ) -> None:
        self.accelerator, self.trained, self.schedule = accelerator, trained, schedule
        self.folder, self.intervals, self.after_step = folder, intervals, after_step
        self.position = Position()
        accelerator.register_for_checkpointing(self.position, schedule)
        self.metrics = Metrics(folder / "metrics.jsonl" if folder and accelerator.is_main_process else None)
        self.interrupts = Interrupts()
        self.guard: Guard | None = None

    def run(self, phases: list[Phase], *, resume: bool, guard: Guard | None = None) -> None:
        """Run the phases to their last step, or to the guard's third strike.

        Raises TrainingError on NaN where there is no guard, KeyboardInterrupt after a signal, once a checkpoint is
        written.
        """
        self.guard = guard
        if guard is not None:
            self.accelerator.register_for_checkpointing(guard)
        if resume and self.folder is not None:
            load_newest(self.accelerator, self.folder)
            self.metrics.rewind(self.position.total)
        with RunProgress(enabled=self.accelerator.is_main_process) as progress, self.interrupts:
            for phase in phases:
                if self.position.done(phase.name) < phase.steps and not self._ended():
                    self._run_phase(phase, progress)
        if self._asked_to_stop():
            raise stopped(self.folder)

    def save(self) -> None:
        """Write a checkpoint, unless the weights broke between two log steps. Raises TrainingError where they did."""
        broken = [
            name
            for name, module in self.trained.items()
            if not all(bool(parameter.isfinite().all()) for parameter in module.parameters())
        ]
        if broken:
            raise TrainingError(
                f"weights of the {', '.join(broken)} are no longer finite; the last good checkpoint is kept"
            )
        if self.folder is not None:
            save_checkpoint(self.accelerator, self.folder, self.position.total, keep_last=self.intervals.keep_last)

    def _run_phase(self, phase: Phase, progress: RunProgress) -> None:
        done = self.position.done(phase.name)
        progress.phase(TITLES[phase.name], total=phase.steps, completed=done)
        seen, since = 0, time.perf_counter()
        for index, batches in phase.batches(done, phase.steps):
            for batch in batches:
                with self.accelerator.accumulate(*self.trained.values()):
                    self.metrics.add(phase.step(index, batch))
                seen += len(batch.images) * self.accelerator.num_processes
            if phase.schedule is not None:
                phase.schedule.step()
            self.position.steps[phase.name] = index + 1
            progress.advance()
            stop = self._asked_to_stop()  # once: Ctrl-C while this step is logged counts for the next one
            save = self.position.total % self.intervals.checkpoint_every == 0 or index + 1 == phase.steps
            due = (index + 1) % self.intervals.log_every == 0 or save
            if due or stop:
                elapsed = time.perf_counter() - since
                self._log(phase, index + 1, progress, seen / elapsed, look=due)
                self.position.seconds += elapsed
            self.after_step(phase.name, index + 1)  # after the guard: it may have gone back from these weights
            if save or stop or self._struck_out():
                self.save()
            if due or stop:
                seen, since = 0, time.perf_counter()
            if stop or self._struck_out():
                break

    def _struck_out(self) -> bool:
        return self.guard is not None and self.guard.ended

    def _ended(self) -> bool:
        return self._struck_out() or self._asked_to_stop()

    def _asked_to_stop(self) -> bool:
        """Whether any process was, so that all stop after the same step; a signal reaches each at its own time."""
        asked = any_process(self.interrupts.requested)
        if asked:
            self.interrupts.requested = True
        return asked  # not `requested`, which a signal may have turned true since, on this process alone

    def _log(self, phase: Phase, step: int, progress: RunProgress, rate: float, *, look: bool) -> None:
        """Write the means of the terms since the last line. `look`: let the guard look, which it does at the same steps
        whether a run is stopped in between or not."""
        guard = self.guard if look else None
        title = TITLES[phase.name]
        means = self.metrics.flush(title, step) if guard is None else self._guarded(phase, guard)
        means |= {"lr": float(self.schedule.get_last_lr()[0]), "images_per_second": rate}
        line: dict[str, object] = {"phase": phase.name, "step": step, "total_step": self.position.total}
        self.metrics.write(line | means)
        self.accelerator.log({f"{phase.name}/{name}": value for name, value in means.items()}, step=self.position.total)
        progress.status(title, step, phase.steps, means)

    def _guarded(self, phase: Phase, guard: Guard) -> dict[str, float]:
        """Means of the terms since the last log step, as far as they are finite, and the guard's signals."""
        terms = self.metrics.means()
        look = guard.look(self.position.total, terms=terms)
        if look.event is not None:
            log.warning("step %(total_step)d, strike %(strike)d: %(seen)s; %(done)s", look.event)
            self.metrics.write({"phase": "guard", **look.event})
        return {name: value for name, value in terms.items() if math.isfinite(value)} | look.signals
