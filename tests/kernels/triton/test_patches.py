"""The Triton patch entropy against the float64 reference, which tests/kernels/test_patches.py holds to loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfda_kernels import PatchEntropy, patch_entropy, patch_launch, rank_patches

SHAPES = {
    "upsampled, ragged": ((3, 5, 3, 4), 3, (11, 13), False),
    "corners aligned": ((2, 7, 2, 3), 2, (7, 9), True),
    "same size": ((2, 19, 5, 7), 4, (5, 7), False),
    "downsampled": ((2, 3, 9, 8), 2, (5, 6), False),
}


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(device, dtype)


def run(logits: Tensor, grid: int, size: tuple[int, int], align_corners: bool = False, backend: Any = "triton") -> Any:
    """The result and the gradient of the logits for the same random upstream gradients."""
    logits = logits.detach().requires_grad_()
    result = patch_entropy(logits, grid, size, align_corners=align_corners, backend=backend)
    upstream = [numbers(len(logits), grid**2, seed=1), numbers(seed=2)]
    outputs = [result.entropy, result.max_square]
    upstream = [u.to(output) for u, output in zip(upstream, outputs, strict=True)]
    return result, *torch.autograd.grad(outputs, logits, upstream)


def check(
    precision: Any, logits: Tensor, grid: int, size: tuple[int, int], align_corners: bool = False
) -> PatchEntropy:
    result, gradient = run(logits, grid, size, align_corners)
    expected, expected_gradient = run(logits.cpu().double(), grid, size, align_corners, "torch")
    precision.close(result.entropy, expected.entropy)
    precision.close(result.max_square, expected.max_square)
    precision.close_gradient(gradient, expected_gradient)
    assert torch.equal(result.rank, rank_patches(result.entropy))
    return result


@pytest.mark.parametrize("shape", SHAPES)
def test_against_float64(shape: str, precision: Any, device: str) -> None:
    dimensions, *rest = SHAPES[shape]
    result = check(precision, numbers(*dimensions, dtype=precision.dtype, device=device), *rest)
    assert result.rank.dtype == torch.int64
    assert not result.rank.requires_grad


@pytest.mark.parametrize("precision", ["fp32"], indirect=True)
def test_several_programs_a_row_and_strips_a_patch(precision: Any, device: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(patch_launch, "STRIP_ROWS", 2)
    monkeypatch.setattr(patch_launch, "_blocks", lambda classes, columns: {"BK": 4, "BX": 4, "num_warps": 1})
    check(precision, numbers(2, 3, 3, 6, device=device), 2, (7, 11))


@pytest.mark.parametrize("precision", ["fp32"], indirect=True)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 5), st.integers(1, 6)),
    st.tuples(st.integers(1, 8), st.integers(1, 9)),
    st.integers(1, 3),
    st.booleans(),
)
def test_any_shape(
    precision: Any, device: str, shape: tuple[int, ...], size: tuple[int, int], grid: int, align_corners: bool
) -> None:
    check(precision, numbers(*shape, device=device), min(grid, *size), size, align_corners)
