"""Which code runs an operator: the reference in plain torch, or its hand-written kernels."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from typing import Literal

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Backend = Literal["auto", "torch", "triton"]

KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Looked for without importing it, and here: torch.compile of torch 2.11 cannot follow a look at the disk.
HAS_TRITON = importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether triton's interpreter runs kernels on the CPU; read by triton when a kernel is defined."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def use_kernels(backend: Backend, operator: str, *tensors: Tensor) -> bool:
    """Decide once, before an operator runs, whether `tensors` go to the kernels, or else to plain torch.

    "auto" takes the kernels for CUDA tensors of fp32, fp16 or bf16 where triton is there, and logs once why not
    elsewhere. "torch" never takes them. "triton" insists. Raises ValueError for another name, and where "triton"
    cannot be had: no triton, CPU tensors without TRITON_INTERPRET=1, float64.
    """
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f"backend must be auto, torch or triton, not {backend!r}")
    if backend == "torch":
        return False
    insisted = backend == "triton"
    obstacle = _obstacle(tensors, insisted)
    if obstacle is None:
        return True
    if insisted:
        raise ValueError(f"{operator}: backend='triton' cannot run here: {obstacle}")
    if not torch.compiler.is_compiling():  # a log line would break the graph
        _log_once(operator, obstacle)
    return False


def _obstacle(tensors: tuple[Tensor, ...], insisted: bool) -> str | None:
    """Why the kernels cannot run, in words for the user, or None. The interpreter is only for those who insist."""
    if not HAS_TRITON:
        return "triton is not installed"
    for tensor in tensors:
        if tensor.dtype not in KERNEL_DTYPES:
            return f"{tensor.dtype} has no kernel (fp32, fp16 and bf16 have)"
    if not all(tensor.is_cuda for tensor in tensors) and not (insisted and interpreted()):
        return "CPU tensors need TRITON_INTERPRET=1, set before sfda_kernels is imported"
    return None


@functools.cache
def _log_once(operator: str, reason: str) -> None:
    log.info("%s runs the torch reference: %s", operator, reason)
