"""What an operator's benchmark hands to `compare`: its cases, their inputs, and who computes them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.floor import Count, Direction

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
Function = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """An operator at one size."""

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
    """One subject: how its inputs are made, what is known of its cost, who computes it, how exact it must be.

    Its functions are those of a module, so that a benchmark can be sent to another process, as a case can.
    """

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


@functools.cache
def compiled(function: Function) -> Function:
    """torch.compile, for fixed shapes; the same object for the same function, so that nothing is compiled twice."""
    torch._dynamo.config.recompile_limit = 64  # beyond the limit, it would run eager and not say so
    return torch.compile(function, dynamic=False)


def batched(sizes: Iterable[dict[str, Any]], batches: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Every size at every batch size."""
    batches = list(batches)
    for size in sizes:
        for batch in batches:
            yield size | {"batch": batch}
