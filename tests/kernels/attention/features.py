"""Features for tests of the attention operators, and the largest tensor that a piece of code makes."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

STRIP_CASES = given(
    batch=st.integers(1, 4),
    count=st.integers(1, 40),
    depth=st.integers(1, 9),
    bound=st.sampled_from([10.0, None, 50.0]),
    strip=st.sampled_from([1, 64, 500, 2**17]),
    rows=st.integers(1, 20),
    seed=st.integers(0, 99),
)
"""Shapes, logit bounds (None: dot products) and strip sizes, for the formulas that hold their maps in strips."""


def tokens(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Tokens (B, T, D) after a ReLU that require gradients; some are zero, some below the floor of their norm, others
    for another seed: where tokens are dead on both sides a gradient is a difference of equal numbers."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).relu()
    x[:, (1 + seed) % 5 :: 5] *= 1e-4
    x[:, (2 + seed) % 7 :: 7] = 0
    return x.to(dtype).requires_grad_()


def random_like(x: Tensor, seed: int) -> Tensor:
    """Normal values of either sign, for upstream gradients."""
    values = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(x.device, x.dtype)


class Largest(TorchDispatchMode):
    """Size of the largest tensor that an operator returns, with all of its storage, in bytes."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                self.size = max(self.size, tensor.untyped_storage().nbytes())
        return out
