"""Forward and backward passes of a function: what they give, how far off it is, and the same to be timed."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from benchmarks.common.case import Benchmark, Case, Function
from benchmarks.common.floor import Direction
from benchmarks.common.machine import device
from benchmarks.common.measure import Timed


@functools.cache
def _draw(shape: torch.Size, dtype: torch.dtype, where: torch.device) -> Tensor:
    draws = torch.Generator().manual_seed(7)
    return (torch.rand(shape, generator=draws, dtype=torch.float64) + 0.5).to(where, dtype)


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


def build_pass(benchmark: Benchmark, case: Case, provider: str, direction: Direction) -> Timed:
    """As `timed_pass`, of a provider by name, in whatever process asks; device by what is there."""
    inputs = tuple(tensor.to(device()) for tensor in benchmark.inputs(case))
    return timed_pass(benchmark.providers(case, device())[provider], inputs, direction)
