"""The triton path of the attended L1 against the reference in float64.

Where both sides nearly agree, rounding may flip a sign, and with it a gradient by a finite step: signs are checked
where they are certain, and gradients against those of the loss with the kernel's own signs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sfda_kernels import attention_l1
from sfda_kernels.attention import reference
from tests.kernels.attention.features import random_like, tokens

launch_attended_l1 = pytest.importorskip("sfda_kernels.attention.launch_attended_l1")

SMALL = [(2, 40, 35), (1, 70, 33)]
LARGE = [(4, 2048, 512), (2, 512, 2048), (8, 100, 72)]

# The interpreter truncates where a GPU rounds to bfloat16, so its attention is up to 2^-8 too small.
VALUE = {torch.float32: 2e-6, torch.bfloat16: 5e-3, torch.float16: 5e-3}
GRADIENT = {torch.float32: 5e-6, torch.bfloat16: 1e-2, torch.float16: 1e-2}

CASES: list[tuple[torch.dtype, bool, str]] = [
    (torch.float32, True, "channel"),
    (torch.float32, False, "spatial"),
    (torch.bfloat16, True, "spatial"),
    (torch.float16, False, "channel"),
]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """On the interpreter: several chunks at small sizes, with few programs."""
    if device == "cpu":
        for name, value in (("ROW_BLOCK", 16), ("ROW_CHUNK", 32), ("TURN_BLOCK", 16), ("TURN_CHUNK", 32)):
            monkeypatch.setattr(launch_attended_l1, name, value)


def attended(x: Tensor, cosine: bool) -> Tensor:
    return reference.attend(reference.scale_tokens(x, 0.1, cosine), x)


def relative(result: Tensor, truth: Tensor) -> float:
    return ((result.double() - truth).norm() / truth.norm()).item()


def check(device: str, shape: tuple[int, ...], case: tuple[torch.dtype, bool, str]) -> None:
    dtype, cosine, layout = case
    sides = []
    for seed in (0, 1):
        x = tokens(*shape, seed=seed, dtype=dtype).detach().to(device) * (1 if cosine else 0.4)
        sides.append((x if layout == "channel" else x.mT.contiguous().mT).requires_grad_())
    result = launch_attended_l1.attended_l1(*sides, 0.1, cosine)
    upstream = random_like(result, 2)
    grads = torch.autograd.grad(result, sides, upstream)

    wide = [x.detach().double().requires_grad_() for x in sides]
    difference = attended(wide[0], cosine) - attended(wide[1], cosine)
    assert relative(result, difference.abs().sum((1, 2))) < VALUE[dtype]
    _, sign, *_ = launch_attended_l1.forward(*(x.detach() for x in sides), 0.1, cosine, False, False)
    certain = difference.abs() > (1e-5 if dtype == torch.float32 else 2e-2) * difference.abs().mean()
    assert certain.double().mean() > 0.9
    assert torch.equal(sign[certain].double(), difference.sign()[certain])
    truths = torch.autograd.grad((sign * difference).sum((1, 2)), wide, upstream.double())
    for name, grad, truth in zip(("teacher", "student"), grads, truths, strict=True):
        assert grad.dtype == dtype
        assert relative(grad, truth) < GRADIENT[dtype], name


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_against_the_reference(device: str, shape: tuple[int, ...], case: Any) -> None:
    check(device, shape, case)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_real_sizes(device: str, shape: tuple[int, ...], case: Any) -> None:
    check(device, shape, case)


@pytest.mark.parametrize("needed", [(True, False), (False, True), (True, True), (False, False)])
def test_only_the_sides_that_need_a_gradient_keep_their_map(
    device: str, needed: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    operator = launch_attended_l1._forward_op

    def spy(*arguments: Any) -> Any:
        out = operator(*arguments)
        kept.append(tuple(attention.numel() > 0 for attention in out[-2:]))
        return out

    monkeypatch.setattr(launch_attended_l1, "_forward_op", spy)
    x, y = (
        random_like(torch.empty(2, 5, 2, 3), seed).to(device).requires_grad_(needs)
        for seed, needs in zip((0, 1), needed, strict=True)
    )
    result = attention_l1(x, y, backend="triton")
    expected = attention_l1(x.detach().double(), y.detach().double(), backend="torch")
    assert relative(result, expected) < VALUE[torch.float32]
    assert kept == [needed] * 2
    assert result.requires_grad == any(needed)
    inputs = [tensor for tensor in (x, y) if tensor.requires_grad]
    if inputs:
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(result.sum(), inputs))


def test_groups_of_samples_equal_the_whole(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = (tokens(3, 20, 8, seed=seed, dtype=torch.float32).detach().to(device) for seed in (0, 1))
    runs = []
    for limit in (2**27, 2 * 20**2):
        monkeypatch.setattr(launch_attended_l1, "MAP_LIMIT", limit)
        student = y.clone().requires_grad_()
        result = launch_attended_l1.attended_l1(x, student, 0.1, True)
        runs.append((result, torch.autograd.grad(result, student, random_like(result, 2))[0]))
    for part, whole in zip(*runs, strict=True):
        torch.testing.assert_close(part, whole)


def test_two_runs_are_bitwise_equal(device: str) -> None:
    def run() -> tuple[Tensor, Tensor]:
        x, y = (tokens(2, 40, 33, seed=seed, dtype=torch.float32).to(device) for seed in (0, 1))
        student = y.detach().requires_grad_()
        result = launch_attended_l1.attended_l1(x.detach(), student, 0.1, True)
        return result, torch.autograd.grad(result, student, random_like(result, 2))[0]

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("keep", [(True, True), (False, True)])
def test_registration(device: str, keep: tuple[bool, bool]) -> None:
    x, y = (random_like(torch.empty(2, 20, 9), seed).to(device).requires_grad_(k) for seed, k in enumerate(keep))
    torch.library.opcheck(torch.ops.sfda_kernels.attended_l1_triton, (x, y, 0.1, True, *keep))
