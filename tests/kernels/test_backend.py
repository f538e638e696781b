"""Which tensors go to the kernels, for every state of the machine that decides it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sfda_kernels import backend
from sfda_kernels.backend import KERNEL_DTYPES, use_kernels


def on(device: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor that says it is there, on a machine without a GPU too."""
    with FakeTensorMode():
        return torch.empty(2, device=device, dtype=dtype)


@pytest.fixture(autouse=True)
def _triton_and_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "HAS_TRITON", True)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    backend._log_once.cache_clear()


@pytest.mark.parametrize("choice", ["auto", "triton"])
@pytest.mark.parametrize("dtype", KERNEL_DTYPES)
def test_a_gpu_takes_the_kernels(choice: Any, dtype: torch.dtype) -> None:
    assert use_kernels(choice, "operator", on("cuda", dtype), on("cuda"))
    assert not use_kernels("torch", "operator", on("cuda", dtype))


@pytest.mark.parametrize(
    "tensors",
    [
        (on("cuda", torch.float64),),
        (on("cuda"), on("cuda", torch.float64)),
        (on("cpu"),),
        (on("cuda"), on("cpu")),
    ],
    ids=["float64", "one of float64", "cpu", "one on the cpu"],
)
def test_what_has_no_kernel_goes_to_torch_or_is_refused(tensors: tuple[Tensor, ...]) -> None:
    assert not use_kernels("auto", "operator", *tensors)
    with pytest.raises(ValueError, match="operator"):
        use_kernels("triton", "operator", *tensors)


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "HAS_TRITON", False)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not use_kernels("auto", "operator", on("cuda"))
    for device in ("cuda", "cpu"):
        with pytest.raises(ValueError, match="operator"):
            use_kernels("triton", "operator", on(device))


def test_the_interpreter_runs_for_those_who_insist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert use_kernels("triton", "operator", on("cpu"), on("cpu", torch.bfloat16))
    assert not use_kernels("auto", "operator", on("cpu"))
    with pytest.raises(ValueError, match="float64"):
        use_kernels("triton", "operator", on("cpu", torch.float64))


def test_the_words_of_an_obstacle_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a type calls itself: float64 has no kernel in the interpreter either."""

    class Named:
        dtype, is_cuda = "CPU", False

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(ValueError, match="operator"):
        use_kernels("triton", "operator", Named())  # type: ignore[arg-type]


def test_auto_says_once_an_operator_why_it_does_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sfda_kernels")
    for operator in ("first", "first", "second"):
        use_kernels("auto", operator, on("cpu"))
    assert [record.args[0] for record in caplog.records if record.args] == ["first", "second"]  # type: ignore[index]


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="cuda"):
        use_kernels("cuda", "operator", on("cpu"))  # type: ignore[arg-type]
