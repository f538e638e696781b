"""Time and peak memory of a callable, on a GPU and on a CPU.

Times of several callables are taken in turns, so that a busy moment of a shared machine falls on all of them.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

FLUSH_BYTES = 256 * 2**20
"""Written between two timed calls on a GPU: more than any L2 cache."""


class Quantiles(NamedTuple):
    """20th, 50th and 80th percentile of the time of one call, ms."""

    p20: float
    p50: float
    p80: float


@dataclass(frozen=True)
class Timed:
    """What is timed: `run(prepare())`, the preparation outside of the clock."""

    run: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None


def time_in_turns(
    candidates: dict[str, Timed], device: torch.device, *, seconds: float, least: int = 5, warmup: int = 1
) -> dict[str, Quantiles]:
    """Time each candidate in turn until `seconds` have passed, at least `least` rounds after `warmup` ones."""
    clock = _cuda_clock() if device.type == "cuda" else _cpu_clock
    for candidate in candidates.values():
        for _ in range(warmup):
            clock(candidate)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    until = time.perf_counter() + seconds
    while min(map(len, times.values()), default=least) < least or time.perf_counter() < until:
        for name, candidate in candidates.items():
            times[name].append(clock(candidate))
    return {name: quantiles(samples) for name, samples in times.items()}


def quantiles(samples: list[float]) -> Quantiles:
    """Percentiles of at least one sample, interpolated."""
    if len(samples) == 1:
        return Quantiles(samples[0], samples[0], samples[0])
    fifths = statistics.quantiles(samples, n=5, method="inclusive")
    return Quantiles(fifths[0], statistics.median(samples), fifths[3])


def _cpu_clock(candidate: Timed) -> float:
    argument = candidate.prepare()
    start = time.perf_counter()
    candidate.run(argument)
    return (time.perf_counter() - start) * 1e3


def _cuda_clock() -> Callable[[Timed], float]:
    """Device time by events; L2 is flushed before each call, as in triton's do_bench."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def clock(candidate: Timed) -> float:
        argument = candidate.prepare()
        flush.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        candidate.run(argument)
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    return clock


def peak_memory_mb(build: Callable[..., Timed], *arguments: Any, device: torch.device) -> float:
    """Peak memory of `run(prepare())` above what stands once `build(*arguments)` has loaded its inputs, MiB.

    On a GPU by the allocator, preparation included. On a CPU the peak resident size of a fresh process that builds
    and runs; `build` must then be importable and `arguments` picklable.
    """
    if device.type == "cuda":
        timed = build(*arguments)
        before = torch.cuda.memory_allocated()
        timed.run(timed.prepare())  # the scratch memory of compiling is not counted
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        timed.run(timed.prepare())
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_resident_peak, (build, arguments, torch.get_num_threads()))


def _resident_peak(build: Callable[..., Timed], arguments: tuple[Any, ...], threads: int) -> float:
    torch.set_num_threads(threads)
    timed = build(*arguments)
    before = count_peak_from_here(torch.device("cpu"))
    timed.run(timed.prepare())
    return peak_above(before, torch.device("cpu"))


def count_peak_from_here(device: torch.device) -> float:
    """Forget earlier peaks of this process; what stands now, MiB, for `peak_above`."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return _resident_mb("VmRSS")


def peak_above(before: float, device: torch.device) -> float:
    """Peak memory since `count_peak_from_here` above what stood then, MiB."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 2**20 - before
    return _resident_mb("VmHWM") - before


def _resident_mb(field: str) -> float:
    """VmRSS or VmHWM (the peak) of this process, MiB; Linux."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 2**10
