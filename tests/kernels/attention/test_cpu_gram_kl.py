"""The Gram KL by formula against autograd through the reference, float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from sfda_kernels.attention import cpu_gram_kl, cpu_strips, reference
from sfda_kernels.attention.shift import SAFE_BOUND
from tests.kernels.attention.features import STRIP_CASES, Largest, random_like, tokens


def scaled(x: Tensor, cosine: bool) -> Tensor:
    return reference.scale_tokens(x, 0.1, cosine)


@settings(max_examples=40, deadline=None)
@STRIP_CASES
def test_equals_the_reference(
    batch: int, count: int, depth: int, bound: float | None, strip: int, rows: int, seed: int
) -> None:
    x, y = tokens(batch, count, depth, seed=seed), tokens(batch, count, depth, seed=seed + 1)
    cosine = bound is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_strips, "STRIP", strip)
        patch.setattr(cpu_strips, "MIN_ROWS", rows)
        result = cpu_gram_kl.gram_kl(scaled(x, cosine), scaled(y, cosine), bound)
        upstream = random_like(result, seed)
        grads = torch.autograd.grad(result, [x, y], upstream)
    expected = reference.gram_kl(scaled(x, cosine), scaled(y, cosine))
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-12)
    for grad, truth in zip(grads, torch.autograd.grad(expected, [x, y], upstream), strict=True):
        torch.testing.assert_close(grad, truth, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("bound", [10.0, None])
def test_first_and_second_derivatives(bound: float | None) -> None:
    x, y = tokens(2, 4, 3, seed=0), tokens(2, 4, 3, seed=1)
    with torch.no_grad():
        for values in (x, y):
            values.copy_(random_like(values, 5 if values is x else 6))

    def divergence(x: Tensor, y: Tensor) -> Tensor:
        return cpu_gram_kl.gram_kl(scaled(x, bound is not None), scaled(y, bound is not None), bound)

    assert torch.autograd.gradcheck(divergence, (x, y))
    assert torch.autograd.gradgradcheck(divergence, (x, y))


@pytest.mark.parametrize("shift", [10.0, None])
def test_registration(shift: float | None) -> None:
    x, y = (scaled(tokens(2, 6, 3, seed=seed), True).detach().requires_grad_() for seed in (0, 1))
    torch.library.opcheck(torch.ops.sfda_kernels.gram_kl_cpu, (x, y, shift))
    torch.library.opcheck(torch.ops.sfda_kernels.gram_kl_cpu, (x.mT, y.mT.detach(), shift))


def test_equal_maps_have_no_divergence_and_no_gradient() -> None:
    x = tokens(2, 30, 6, seed=0, dtype=torch.float32)
    result = cpu_gram_kl.gram_kl(scaled(x, True), scaled(x.detach(), True), 10.0)
    (grad,) = torch.autograd.grad(result, x, torch.tensor([1.5, -2.0]))
    assert (result == 0).all()
    assert (grad == 0).all()


@pytest.mark.parametrize("temperature", [1 / SAFE_BOUND, 1e-3])
def test_dead_tokens_at_a_small_temperature(temperature: float) -> None:
    """The logits of a dead token are all 0, far below a bound of 1000: its row must not underflow."""
    x, y = tokens(2, 30, 6, seed=0, dtype=torch.float32), tokens(2, 30, 6, seed=1, dtype=torch.float32)
    u, v = (reference.scale_tokens(values, temperature, True) for values in (x, y))
    result = cpu_gram_kl.gram_kl(u, v, 1 / temperature)
    expected = reference.gram_kl(u.double(), v.double())
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [10.0, None])
def test_no_map_is_held(shift: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pass allocates more than a strip, or than one of its inputs."""
    monkeypatch.setattr(cpu_strips, "STRIP", 2048)
    monkeypatch.setattr(cpu_strips, "MIN_ROWS", 8)
    u, v = (scaled(tokens(2, 256, 4, seed=seed, dtype=torch.float32), True).detach() for seed in (0, 1))
    grad = torch.tensor([1.0, -0.5])
    with Largest() as largest:
        _, rows = cpu_gram_kl.forward(u, v, shift)
        for wrt_target in (False, True):
            cpu_gram_kl.backward(grad, u, v, rows, shift, wrt_target)
    assert largest.size == 4 * max(2048, u.numel())


def test_autocast_does_not_round_the_backward_pass() -> None:
    x, y = tokens(2, 20, 6, seed=0, dtype=torch.float32), tokens(2, 20, 6, seed=1, dtype=torch.float32)
    u, v = scaled(x, True), scaled(y, True).detach()
    upstream = torch.tensor([0.7, -1.1])
    (expected,) = torch.autograd.grad(cpu_gram_kl.gram_kl(u, v, 10.0), x, upstream, retain_graph=True)
    result = cpu_gram_kl.gram_kl(u, v, 10.0)
    with torch.autocast("cpu", torch.bfloat16):
        (grad,) = torch.autograd.grad(result, x, upstream)
    torch.testing.assert_close(grad, expected, rtol=0, atol=0)


def test_closed_form() -> None:
    """Two orthogonal tokens against two equal ones at logit 1: p = e / (1 + e), KL = log 2 - H(p)."""
    u = torch.eye(2, dtype=torch.float64)[None]
    v = torch.ones(1, 2, 1, dtype=torch.float64).expand(1, 2, 2).contiguous() / math.sqrt(2)
    p = math.e / (1 + math.e)
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert cpu_gram_kl.gram_kl(u, v, 1.0).item() == pytest.approx(math.log(2) - entropy)
