"""The operator benchmarks: cases and providers in, checked and timed rows out. No time on red.

A provider is checked against the float64 reference first, outputs and gradients; one that is wrong gets a row that
says how wrong, and no time.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks.common.case import Benchmark, Case
from benchmarks.common.floor import Direction, find_device, floor_ms
from benchmarks.common.machine import device, device_name, device_slug
from benchmarks.common.measure import peak_memory_mb, time_in_turns
from benchmarks.common.passes import build_pass, error_of, evaluate, timed_pass
from benchmarks.common.plot import plot
from benchmarks.common.row import Row, stamp, write_table

DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "both")


def measure_case(
    benchmark: Benchmark, case: Case, on: torch.device, *, seconds: float, memory: bool = True
) -> list[Row]:
    """Check every provider, then time those that are right, in turns; one row a direction and provider."""
    inputs = tuple(tensor.to(on) for tensor in benchmark.inputs(case))
    expected = evaluate(benchmark.reference(case), tuple(tensor.double() for tensor in inputs))
    providers = benchmark.providers(case, on)
    errors: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    for name, function in providers.items():
        try:
            errors[name] = error_of(evaluate(function, inputs), expected)
        except Exception as problem:  # out of memory, a kernel that does not compile: the others are still measured
            errors[name], notes[name] = None, f"{type(problem).__name__}: {str(problem).splitlines()[0][:120]}"
    del expected
    allowed = benchmark.tolerance(case)
    right = {name: f for name, f in providers.items() if (error := errors[name]) is not None and error <= allowed}
    rows = []
    for direction in DIRECTIONS:
        timed = {name: timed_pass(function, inputs, direction) for name, function in right.items()}
        times = time_in_turns(timed, on, seconds=seconds, warmup=1 if on.type == "cpu" else 3)
        for name in providers:
            row = Row(
                op=case.op, provider=name, direction=direction, shape=case.shape, dtype=case.dtype,
                max_error=errors[name],
            )  # fmt: skip
            if name not in right:
                wrong = f"wrong: error {errors[name]:.1e} over {allowed:.0e}, not timed" if name not in notes else ""
                rows.append(stamp(dataclasses.replace(row, note=notes.get(name, wrong))))
                continue
            peak = None
            if memory and direction != "backward":  # it holds what its forward pass saved: its peak is that of both
                peak = peak_memory_mb(build_pass, benchmark, case, name, direction, device=on)
            p20, p50, p80 = times[name]
            row = dataclasses.replace(row, p20_ms=p20, p50_ms=p50, p80_ms=p80, peak_memory_mb=peak)
            rows.append(stamp(with_floor(row, benchmark, case, direction)))
    return rows


def with_floor(row: Row, benchmark: Benchmark, case: Case, direction: Direction) -> Row:
    """The row with what was counted, and the share of the floor on a device whose peaks are known."""
    count = benchmark.count(case, direction)
    row = dataclasses.replace(row, flop=count.flop, bytes=count.bytes)
    board = find_device(device_name())
    if board is None or row.p50_ms is None:
        return row
    floor = floor_ms(count, board, dtype=case.dtype, products=benchmark.products)
    return dataclasses.replace(row, floor_ms=floor, floor_share=floor / row.p50_ms)


def run(
    benchmark: Benchmark, cases: Iterable[Case], arguments: argparse.Namespace, title: str, remark: str
) -> list[Row]:
    """Measure case after case while the budget lasts; the table is rewritten after each."""
    stem = Path(arguments.output) / f"{benchmark.name}_{device_slug()}"
    rows: list[Row] = []
    start = time.perf_counter()
    for case in cases:
        if time.perf_counter() - start > arguments.budget:
            named = Row(op=case.op, provider="all", direction="both", shape=case.shape, dtype=case.dtype)
            own = [stamp(dataclasses.replace(named, note="not run: out of budget"))]
        else:
            own = measure_case(benchmark, case, device(), seconds=arguments.seconds, memory=not arguments.quick)
        rows += own
        for row in own:
            took = f"{row.p50_ms:10.3f} ms" if row.p50_ms is not None else row.note
            print(f"{row.op:22} {row.shape:28} {row.dtype} {row.direction:9} {row.provider:14} {took}", flush=True)
        write_table(stem, rows, title, remark)
    plot(stem.with_suffix(".csv"))
    print(f"written: {stem}.csv, .md, .png")
    return rows


def parse(description: str | None, argv: list[str] | None) -> argparse.Namespace:
    """The options of every operator benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", default="benchmarks/results", help="folder for CSV, Markdown and plot")
    parser.add_argument("--quick", action="store_true", help="one tiny size, a few calls: shows that it runs")
    parser.add_argument("--seconds", type=float, default=1.0, help="least time on each row of candidates")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no further case is begun")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.seconds = 0.0
    return arguments


def where() -> str:
    """What a table must say of the machine that it was made on."""
    if torch.cuda.is_available():
        return "Times are device times by events, L2 flushed before each call."
    return (
        "**A CPU table**: our CPU path (chunked maps, no kernel) against the plain equations; it says nothing of the "
        "Triton kernels."
    )
