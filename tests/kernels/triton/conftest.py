"""Triton kernels on a GPU, or on the CPU under TRITON_INTERPRET=1, which must be set before triton is imported.

The two need two processes, so `make test` runs this folder by itself under the interpreter. Without interpreter and
GPU nothing here is collected.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if find_spec("triton") and (INTERPRETED or torch.cuda.is_available()) else ["test_*.py"]


@functools.cache
def interpreter_trouble() -> str | None:
    """Why the interpreter cannot run a loop here, as that of triton 3.6 cannot with numpy 2.4."""
    import triton
    from triton.runtime.errors import InterpreterError

    try:
        triton.jit(_loop)[(1,)](torch.ones(1, dtype=torch.int32))
    except InterpreterError as error:
        return f"triton {triton.__version__} does not interpret with this numpy: {error}"
    return None


def _loop(count: Any) -> None:
    import triton.language as tl

    for _ in range(tl.load(count)):
        pass


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where the kernels run: every test runs under the interpreter, and on a GPU where there is one."""
    if request.param == "cpu" and not INTERPRETED:
        pytest.skip("triton's interpreter needs TRITON_INTERPRET=1")
    if request.param == "cpu" and interpreter_trouble():
        pytest.skip(interpreter_trouble())
    if request.param == "cuda" and (INTERPRETED or not torch.cuda.is_available()):
        pytest.skip("needs a CUDA device and TRITON_INTERPRET unset")
    return request.param


@dataclass(frozen=True)
class Precision:
    """A type of the inputs and the largest |result - float64| / |float64|, norms over the whole tensor."""

    dtype: torch.dtype
    result: float
    """Of results, which are fp32: the float64 reference reads the same rounded inputs."""
    gradient: float
    """Of gradients, which are rounded to `dtype`; the interpreter truncates bf16, up to one unit in the last place."""

    def close(self, actual: Tensor, expected: Tensor, floor: float = 0.0) -> None:
        """A result, for inputs of `dtype`. Elements below `floor` may be as wrong as one of that size."""
        assert actual.dtype == torch.float32
        _within(self.result, actual, expected, floor)

    def close_gradient(self, actual: Tensor, expected: Tensor, floor: float = 0.0) -> None:
        """A gradient of an input of `dtype`."""
        assert actual.dtype == self.dtype
        _within(self.gradient, actual, expected, floor)


def _within(tolerance: float, actual: Tensor, expected: Tensor, floor: float) -> None:
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    assert actual.shape == expected.shape
    assert actual.isfinite().all(), "not every element was written"
    error, size = (actual - expected).norm(), expected.norm() + floor * expected.numel() ** 0.5
    assert error <= tolerance * size, f"off by {error / size:.1e}, more than {tolerance:.1e}"


PRECISIONS = {
    "fp32": Precision(torch.float32, 2e-6, 2e-6),
    "fp16": Precision(torch.float16, 2e-6, 1e-3),
    "bf16": Precision(torch.bfloat16, 2e-6, 6e-3),
}


@pytest.fixture(params=list(PRECISIONS))
def precision(request: pytest.FixtureRequest) -> Precision:
    """Each type in turn; `@pytest.mark.parametrize("precision", ["fp32"], indirect=True)` takes some."""
    return PRECISIONS[request.param]


ABSURD = 77
"""In integers and booleans that no kernel writes."""


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is not initialized is NaN, or the integer ABSURD: an element that no kernel writes shows."""

    def poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def allocated(*args: Any, **kwargs: Any) -> Tensor:
            tensor = allocate(*args, **kwargs)
            return tensor.fill_(float("nan") if tensor.is_floating_point() else ABSURD)

        return allocated

    for owner, name in [(torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"), (Tensor, "new_empty")]:
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))
