"""What the operator benchmarks share: cases and providers in, checked and timed rows out. No time on red.

A provider is checked against the float64 reference first, outputs and gradients; one that is wrong gets a row that
says how wrong, and no time.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.floor import Count, Direction, find_device, floor_ms
from benchmarks.common.measure import Timed, peak_memory_mb, time_in_turns
from benchmarks.common.plot import plot
from benchmarks.common.row import Row, device_name, device_slug, stamp, write_csv, write_markdown

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "both")
Function = Callable[..., tuple[Tensor, ...]]


@functools.cache
def compiled(function: Function) -> Function:
    """torch.compile, for fixed shapes; the same object for the same function, so that nothing is compiled twice."""
    torch._dynamo.config.recompile_limit = 64  # beyond the limit, it would run eager and not say so
    return torch.compile(function, dynamic=False)


@dataclass(frozen=True)
class Case:
    """An operator at one size. Every method is given by name, so that a case can be sent to another process."""

    op: str
    shape: str
    """In words, for the table."""
    dtype: str
    sizes: dict[str, Any]
    """What `inputs` and `count` of the benchmark need."""
    compiled: bool = False
    """Whether torch.compile is worth its minute here."""


@dataclass(frozen=True)
class Benchmark:
    """One subject: how its inputs are made, what is known of its cost, who computes it, how exact it must be."""

    name: str
    inputs: Callable[[Case], tuple[Tensor, ...]]
    """CPU tensors of a case in its dtype, the differentiable one first."""
    providers: Callable[[Case, torch.device], dict[str, Function]]
    """By name; each takes the inputs and returns the outputs, differentiable floats and integers."""
    reference: Callable[[Case], Function]
    """Run on float64 inputs."""
    count: Callable[[Case, Direction], Count]
    tolerance: Callable[[Case], float]
    """Largest relative L2 error that is still called right."""
    products: bool
    """Whether the FLOP counted are matrix products."""


def measure_case(
    benchmark: Benchmark, case: Case, device: torch.device, *, seconds: float, memory: bool = True
) -> list[Row]:
    """Check every provider, then time those that are right, in turns; one row a direction and provider."""
    inputs = tuple(tensor.to(device) for tensor in benchmark.inputs(case))
    expected = evaluate(benchmark.reference(case), tuple(tensor.double() for tensor in inputs))
    providers = benchmark.providers(case, device)
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
        times = time_in_turns(timed, device, seconds=seconds, warmup=1 if device.type == "cpu" else 3)
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
                peak = peak_memory_mb(build_pass, benchmark.name, case, name, direction, device=device)
            p20, p50, p80 = times[name]
            row = dataclasses.replace(row, p20_ms=p20, p50_ms=p50, p80_ms=p80, peak_memory_mb=peak)
            rows.append(stamp(with_floor(row, benchmark, case, direction)))
    return rows


def with_floor(row: Row, benchmark: Benchmark, case: Case, direction: Direction) -> Row:
    """The row with what was counted, and the share of the floor on a device whose peaks are known."""
    count = benchmark.count(case, direction)
    row = dataclasses.replace(row, flop=count.flop, bytes=count.bytes)
    device = find_device(device_name())
    if device is None or row.p50_ms is None:
        return row
    floor = floor_ms(count, device, dtype=case.dtype, products=benchmark.products)
    return dataclasses.replace(row, floor_ms=floor, floor_share=floor / row.p50_ms)


@functools.cache
def _draw(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    draws = torch.Generator().manual_seed(7)
    return (torch.rand(shape, generator=draws, dtype=torch.float64) + 0.5).to(device, dtype)


def upstream(outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """A fixed random gradient for each differentiable output."""
    return [_draw(o.shape, o.dtype, o.device) for o in outputs if o.requires_grad]


def _backward(outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], gradients: list[Tensor]) -> Tensor:
    return torch.autograd.grad([o for o in outputs if o.requires_grad], inputs[0], gradients)[0]


def evaluate(function: Function, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Outputs and the gradient of the first input, detached."""
    inputs = (inputs[0].detach().requires_grad_(True), *inputs[1:])
    outputs = function(*inputs)
    return [*(o.detach() for o in outputs), _backward(outputs, inputs, upstream(outputs))]


def error_of(values: list[Tensor], expected: list[Tensor]) -> float:
    """Largest relative L2 error over the tensors; integers must agree exactly (infinite otherwise), as must NaN."""
    worst = 0.0
    for value, truth in zip(values, expected, strict=True):
        if not truth.is_floating_point():
            worst = max(worst, 0.0 if torch.equal(value, truth) else float("inf"))
            continue
        error = float((value.double() - truth).norm() / truth.norm().clamp_min(1e-30))
        worst = max(worst, error if error == error else float("inf"))
    return worst


def timed_pass(function: Function, inputs: tuple[Tensor, ...], direction: Direction) -> Timed:
    """One direction of a function on inputs, the first of which gets a gradient unless only forward is asked."""
    if direction == "forward":
        return Timed(lambda _: function(*inputs))  # as under no_grad: nothing requires one
    inputs = (inputs[0].detach().requires_grad_(True), *inputs[1:])

    def backward(outputs: tuple[Tensor, ...]) -> Tensor:
        return _backward(outputs, inputs, upstream(outputs))

    if direction == "both":
        return Timed(lambda _: backward(function(*inputs)))
    return Timed(backward, lambda: function(*inputs))


def build_pass(benchmark: str, case: Case, provider: str, direction: Direction) -> Timed:
    """As `timed_pass`, from names alone, in whatever process asks; device by what is there."""
    from benchmarks import attention, patch_entropy

    subject = {"attention": attention.BENCHMARK, "patch_entropy": patch_entropy.BENCHMARK}[benchmark]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = tuple(tensor.to(device) for tensor in subject.inputs(case))
    return timed_pass(subject.providers(case, device)[provider], inputs, direction)


def run(
    benchmark: Benchmark, cases: Iterable[Case], arguments: argparse.Namespace, title: str, remark: str
) -> list[Row]:
    """Measure case after case while the budget lasts; CSV, Markdown and plot are rewritten after each."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stem = Path(arguments.output) / f"{benchmark.name}_{device_slug()}"
    rows: list[Row] = []
    start = time.perf_counter()
    for case in cases:
        if time.perf_counter() - start > arguments.budget:
            named = Row(op=case.op, provider="all", direction="both", shape=case.shape, dtype=case.dtype)
            own = [stamp(dataclasses.replace(named, note="not run: out of budget"))]
        else:
            own = measure_case(benchmark, case, device, seconds=arguments.seconds, memory=not arguments.quick)
        rows += own
        for row in own:
            took = f"{row.p50_ms:10.3f} ms" if row.p50_ms is not None else row.note
            print(f"{row.op:22} {row.shape:28} {row.dtype} {row.direction:9} {row.provider:14} {took}", flush=True)
        write_csv(stem.with_suffix(".csv"), rows)
        write_markdown(stem.with_suffix(".md"), rows, title, remark)
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


def batched(sizes: Iterable[dict[str, Any]], batches: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Every size at every batch size."""
    batches = list(batches)
    for size in sizes:
        for batch in batches:
            yield size | {"batch": batch}
