"""Scaled tokens by formula against autograd through the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfda_kernels.attention import cpu_scaled_tokens, reference
from tests.kernels.attention.features import random_like, tokens


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 20), st.integers(1, 9), st.sampled_from([0.01, 0.1, 2.0]), st.integers(0, 99))
def test_equals_the_reference(batch: int, count: int, depth: int, temperature: float, seed: int) -> None:
    x = tokens(batch, count, depth, seed=seed)
    result = cpu_scaled_tokens.scale_tokens(x, temperature, True)
    expected = reference.scale_tokens(x, temperature, True)
    torch.testing.assert_close(result, expected)
    upstream = random_like(result, seed)
    (grad,) = torch.autograd.grad(result, x, upstream)
    (truth,) = torch.autograd.grad(expected, x, upstream)
    torch.testing.assert_close(grad, truth, rtol=1e-9, atol=1e-9)


def test_dead_and_healthy_tokens() -> None:
    """One sample holds a healthy token, one below a hundredth of the RMS norm, and zeros: by hand."""
    x = torch.tensor([[[3.0, 4.0], [0.0, 0.01], [0.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    result = cpu_scaled_tokens.scale_tokens(x, 1.0, True)
    floor = 0.01 * ((25 + 1e-4) / 3) ** 0.5
    torch.testing.assert_close(
        result, torch.tensor([[[0.6, 0.8], [0.0, 0.01 / floor], [0.0, 0.0]]], dtype=torch.float64)
    )
    (grad,) = torch.autograd.grad(result, x, torch.ones_like(result))
    across = torch.tensor([0.8, -0.6], dtype=torch.float64) * (0.8 - 0.6) / 5
    torch.testing.assert_close(grad[0, 0], across)
    torch.testing.assert_close(grad[0, 1:], torch.full((2, 2), 1 / floor, dtype=torch.float64))


def test_dot_products_take_the_tokens_as_they_are() -> None:
    x = tokens(1, 4, 3, seed=0)
    assert cpu_scaled_tokens.scale_tokens(x, 0.1, False) is x


def test_second_derivative_and_registration() -> None:
    x = random_like(torch.empty(2, 4, 3, dtype=torch.float64), 0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cpu_scaled_tokens.scale_tokens(x, 0.5, True), x)
    assert torch.autograd.gradgradcheck(lambda x: cpu_scaled_tokens.scale_tokens(x, 0.5, True), x)
    torch.library.opcheck(torch.ops.sfda_kernels.scale_tokens_cpu, (x, 0.5))


@pytest.mark.parametrize("transposed", [False, True])
def test_the_layout_of_the_tokens_is_kept(transposed: bool) -> None:
    """A gradient in another layout than its tokens costs ten times their passes."""
    x = random_like(torch.empty(2, 6, 4), 0)
    view = (x.mT if transposed else x).requires_grad_()
    result = cpu_scaled_tokens.scale_tokens(view, 0.1, True)
    (grad,) = torch.autograd.grad(result, view, torch.empty_like(result).fill_(0.3))
    assert result.stride() == grad.stride() == view.stride()
