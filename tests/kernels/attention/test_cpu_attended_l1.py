"""The L1 of attended tokens by formula against autograd through the reference, float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from sfda_kernels.attention import cpu_attended_l1, cpu_strips, reference
from tests.kernels.attention.features import STRIP_CASES, Largest, random_like, tokens


def oracle(u_t: Tensor, x_t: Tensor, u_s: Tensor, x_s: Tensor) -> Tensor:
    return (reference.attend(u_t, x_t) - reference.attend(u_s, x_s)).abs().sum((1, 2))


def sides(x: Tensor, y: Tensor, cosine: bool) -> list[Tensor]:
    return [part for values in (x, y) for part in (reference.scale_tokens(values, 0.1, cosine), values)]


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
        u_t, x_t, u_s, x_s = sides(x, y, cosine)
        result = cpu_attended_l1.attended_l1((u_t, x_t), (u_s, x_s), bound)
        upstream = random_like(result, seed)
        grads = torch.autograd.grad(result, [x, y], upstream)
    expected = oracle(*sides(x, y, cosine))
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-10)
    for grad, truth in zip(grads, torch.autograd.grad(expected, [x, y], upstream), strict=True):
        torch.testing.assert_close(grad, truth, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("bound", [20.0, None])
def test_first_and_second_derivatives_of_each_argument(bound: float | None) -> None:
    """Tokens and values apart: inside the operator they need not come from the same features."""
    inputs = [random_like(torch.empty(2, 4, 3, dtype=torch.float64), seed).requires_grad_() for seed in range(4)]

    def distance(u_t: Tensor, x_t: Tensor, u_s: Tensor, x_s: Tensor) -> Tensor:
        return cpu_attended_l1.attended_l1((u_t, x_t), (u_s, x_s), bound)

    assert torch.autograd.gradcheck(distance, inputs)
    assert torch.autograd.gradgradcheck(distance, inputs)


@pytest.mark.parametrize("needed", [(0, 1), (2, 3), (0, 1, 2, 3), (3,)])
def test_registration(needed: tuple[int, ...]) -> None:
    inputs = [random_like(torch.empty(2, 5, 3, dtype=torch.float64), seed) for seed in range(4)]
    for index in needed:
        inputs[index].requires_grad_()
    torch.library.opcheck(torch.ops.sfda_kernels.attended_l1_cpu, (*inputs, 20.0 if len(needed) > 1 else None))


@pytest.mark.parametrize("shift", [10.0, None])
def test_no_map_is_held(shift: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_strips, "STRIP", 2048)
    monkeypatch.setattr(cpu_strips, "MIN_ROWS", 8)
    x, y = (tokens(2, 256, 4, seed=seed, dtype=torch.float32).detach() for seed in (0, 1))
    u_t, x_t, u_s, x_s = sides(x, y, True)
    with Largest() as largest:
        _, sign, rows = cpu_attended_l1.forward(u_t, x_t, u_s, x_s, shift)
        cpu_attended_l1.backward(torch.ones(2), u_s, x_s, sign, *rows[2:], shift)
    assert largest.size == 4 * max(2048, x.numel())
    assert sign.dtype == torch.int8


def test_equal_sides_have_no_distance_and_no_gradient() -> None:
    x = tokens(2, 30, 6, seed=0, dtype=torch.float32)
    u_t, x_t, u_s, x_s = sides(x, x.detach(), True)
    result = cpu_attended_l1.attended_l1((u_t, x_t), (u_s, x_s), 10.0)
    (grad,) = torch.autograd.grad(result, x, torch.tensor([1.5, -2.0]))
    assert (result == 0).all()
    assert (grad == 0).all()
