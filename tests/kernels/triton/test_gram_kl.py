"""The triton paths of the Gram KL against the reference in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sfda_kernels import attention_kl, attention_l1
from sfda_kernels.attention import launch_table, reference
from tests.kernels.attention.features import Largest, random_like, tokens

launch_gram_kl = pytest.importorskip("sfda_kernels.attention.launch_gram_kl")

SMALL = [(2, 40, 35), (1, 70, 33), (2, 64, 64), (3, 1, 5), (1, 33, 1)]
LARGE = [(4, 2048, 512), (2, 512, 2048), (8, 100, 72)]

# The divergence is fp32 throughout; a gradient, relative to its norm, passes through 16-bit factors.
VALUE = {"rtol": 2e-6, "atol": 2e-7}
GRADIENT = {torch.float32: 5e-6, torch.bfloat16: 8e-3, torch.float16: 8e-3}

# path, temperature (None: dot products), dtype, layout
CASES: list[tuple[str, float | None, torch.dtype, str]] = [
    ("tiles", 0.1, torch.float32, "channel"),
    ("tiles", 0.5, torch.float32, "spatial"),
    ("tiles", 0.1, torch.bfloat16, "spatial"),
    ("tiles", 0.1, torch.float16, "channel"),
    ("hybrid", 0.1, torch.float32, "spatial"),
    ("hybrid", 0.1, torch.bfloat16, "channel"),
    ("hybrid", None, torch.float32, "channel"),
    ("hybrid", None, torch.float16, "spatial"),
    ("blocks", 0.1, torch.bfloat16, "spatial"),
    ("blocks", 0.01, torch.float32, "channel"),
    ("blocks", None, torch.float32, "spatial"),
]


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """On the interpreter: several chunks and blocks at small sizes, with few programs."""
    if device == "cpu":
        monkeypatch.setattr(launch_gram_kl, "ROW_BLOCK", 16)
        monkeypatch.setattr(launch_gram_kl, "ROW_CHUNK", 32)
        monkeypatch.setattr(launch_gram_kl, "BLOCK_LIMIT", 1500)


def inside_nan(x: Tensor, layout: str) -> Tensor:
    """The tokens as a view, of unit stride along D ("channel") or T ("spatial"), into a larger buffer of NaN."""
    batch, count, depth = x.shape
    shape = (count, depth) if layout == "channel" else (depth, count)
    buffer = x.new_full((batch + 1, shape[0] + 3, shape[1] + 5), math.nan)
    view = buffer[1:, 2:-1, 3:-2]
    view = view if layout == "channel" else view.mT
    return view.copy_(x.detach())


def relative(result: Tensor, truth: Tensor) -> float:
    return ((result.double() - truth).norm() / truth.norm().clamp_min(1e-12)).item()


def check(device: str, shape: tuple[int, ...], case: tuple[str, float | None, torch.dtype, str]) -> None:
    path, temperature, dtype, layout = case
    cosine = temperature is not None
    pair = [tokens(*shape, seed=seed, dtype=dtype).to(device) * (1 if cosine else 0.4) for seed in (0, 1)]
    p, q = (inside_nan(x, layout).requires_grad_() for x in pair)
    result = launch_gram_kl.gram_kl(p, q, temperature or 0.1, cosine, path)
    upstream = random_like(result, 2)
    grads = torch.autograd.grad(result, [p, q], upstream)

    wide = [x.detach().double().requires_grad_() for x in (p, q)]
    scaled = [reference.scale_tokens(x, temperature or 0.1, cosine) for x in wide]
    expected = reference.gram_kl(*scaled)
    truths = torch.autograd.grad(expected, wide, upstream.double())
    if shape[1] == 1:  # one token attends to itself alone
        assert all((values.abs() < 1e-6).all() for values in (result, *grads))
        return
    torch.testing.assert_close(result.double(), expected, **VALUE)
    for name, grad, truth in zip(("synthetic", "target"), grads, truths, strict=True):
        assert grad.dtype == dtype
        if truth.norm() > 1e-9:  # one feature: healthy tokens are 1, and nothing but rounding is left
            assert relative(grad, truth) < GRADIENT[dtype], name


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shape", SMALL[:2], ids=str)
def test_against_the_reference(device: str, shape: tuple[int, ...], case: Any) -> None:
    check(device, shape, case)


@pytest.mark.parametrize("path", ["tiles", "hybrid", "blocks"])
@pytest.mark.parametrize("shape", SMALL[2:], ids=str)
def test_even_and_tiny_shapes(device: str, shape: tuple[int, ...], path: str) -> None:
    check(device, shape, (path, 0.1, torch.float32, "channel"))


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_real_sizes(device: str, shape: tuple[int, ...], case: Any) -> None:
    check(device, shape, case)


def test_one_epilogue_and_four_strips_agree(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p, q = (tokens(2, 70, 24, seed=seed, dtype=torch.float32).to(device) for seed in (0, 1))
    grads = []
    for split in (False, True):
        tile = launch_gram_kl.Tile(size=64, depth=32, warps=4, stages=2, split=split)
        monkeypatch.setattr(launch_gram_kl, "INTERPRETED", tile)
        monkeypatch.setattr(launch_gram_kl, "choose_tile", lambda *_, tile=tile: tile)
        x = p.detach().requires_grad_()
        result = launch_gram_kl.gram_kl(x, q, 0.1, True, "tiles")
        grads.append(torch.autograd.grad(result, x, random_like(result, 2))[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", ["tiles", "hybrid", "blocks"])
def test_two_runs_are_bitwise_equal(device: str, path: str) -> None:
    def run() -> tuple[Tensor, Tensor]:
        p, q = (tokens(2, 70, 33, seed=seed, dtype=torch.float32).to(device) for seed in (0, 1))
        x = p.detach().requires_grad_()
        result = launch_gram_kl.gram_kl(x, q, 0.1, True, path)
        return result, torch.autograd.grad(result, x, random_like(result, 2))[0]

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("path", ["tiles", "hybrid", "blocks"])
def test_registration(device: str, path: str) -> None:
    p, q = (tokens(2, 20, 9, seed=seed, dtype=torch.float32).detach().to(device) for seed in (0, 1))
    operator = torch.ops.sfda_kernels.gram_kl_triton
    torch.library.opcheck(operator, (p.mT.contiguous().mT.requires_grad_(), q, 0.1, True, path))
    torch.library.opcheck(operator, (p, q.requires_grad_(), 0.1, path == "tiles", path))


def test_maps_that_are_allocated(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elements of the largest tensor: two maps' worth on no path, one block of rows on "blocks"."""
    monkeypatch.setattr(launch_gram_kl, "BLOCK_LIMIT", 1500)
    batch, count, depth = 2, 96, 4
    p, q = (tokens(batch, count, depth, seed=seed, dtype=torch.float32).detach().to(device) for seed in (0, 1))
    grad = torch.ones(batch, device=device)
    largest = {}
    for path in ("tiles", "hybrid", "blocks"):
        with Largest() as forward:
            _, *saved = launch_gram_kl.forward(p, q, 0.1, True, path)
        with Largest() as backward:
            launch_gram_kl.backward(grad, p, q, *saved, 0.1, path, False)
        largest[path] = (forward.size // 4, backward.size // 4)
    one_map = batch * count**2
    assert largest["hybrid"] == (one_map, one_map)
    assert largest["tiles"][0] < one_map / 4
    assert largest["tiles"][1] == one_map
    assert max(largest["blocks"]) <= 1500


@pytest.mark.parametrize(("limit", "expected"), [(2**27, "hybrid"), (1, "blocks")])
def test_the_operator_takes_the_path_of_the_table(
    device: str, limit: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_table, "MAP_LIMIT", limit)
    ran = []
    monkeypatch.setattr(
        launch_gram_kl,
        "_forward_op",
        lambda p, q, t, c, path: (ran.append(path), launch_gram_kl.forward(p, q, t, c, path))[1],
    )
    x = tokens(2, 6, 8, seed=0, dtype=torch.float32).detach().view(2, 6, 2, 4).to(device)
    y = tokens(2, 6, 8, seed=1, dtype=torch.float32).detach().view(2, 6, 4, 2).to(device)
    for synthetic, target in ((x, y), (y, x)):
        results = attention_kl(synthetic, target, backend="triton")
        truths = attention_kl(synthetic.double(), target.double())
        for result, truth in zip(results, truths, strict=True):
            torch.testing.assert_close(result.double(), truth, **VALUE)
    assert ran == [expected] * 4


def test_narrow_aligned_features_take_tiles(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    for name in ("_tiles_forward", "_tiles_backward", "_rows_forward", "_rows_backward"):
        function = getattr(launch_gram_kl, name)
        monkeypatch.setattr(launch_gram_kl, name, lambda *a, n=name, f=function: (launched.append(n), f(*a))[1])
    x, y = (tokens(1, 32, 16, seed=seed, dtype=torch.bfloat16).detach().view(1, 32, 4, 4).to(device) for seed in (0, 1))
    spatial, channel = attention_kl(x.requires_grad_(), y, backend="triton")
    torch.autograd.grad(spatial + channel, x, torch.ones(1, device=device))
    assert launched == ["_tiles_forward"] * 2 + ["_tiles_backward"] * 2


def test_second_derivative_falls_back(device: str) -> None:
    p, q = (random_like(torch.empty(1, 5, 4), seed).to(device) for seed in (0, 1))
    x = p.requires_grad_()
    result = launch_gram_kl.gram_kl(x, q, 0.5, True, "hybrid")
    (grad,) = torch.autograd.grad(result, x, torch.ones_like(result), create_graph=True)
    wide = p.detach().double().requires_grad_()
    scaled = [reference.scale_tokens(values, 0.5, True) for values in (wide, q.double())]
    (truth,) = torch.autograd.grad(reference.gram_kl(*scaled).sum(), wide, create_graph=True)
    weight = random_like(p, 3)
    (second,) = torch.autograd.grad(grad, x, weight)
    (second_truth,) = torch.autograd.grad(truth, wide, weight.double())
    assert relative(grad, truth) < 1e-5
    assert relative(second, second_truth) < 1e-5


def test_tiles_need_a_bound(device: str) -> None:
    x = torch.ones(1, 4, 4, device=device)
    for temperature, cosine in ((0.01, True), (0.1, False)):
        with pytest.raises(ValueError, match="tiles"):
            launch_gram_kl.gram_kl(x, x, temperature, cosine, "tiles")


@pytest.mark.parametrize("operator", [attention_kl, attention_l1])
def test_compiled_equals_eager(device: str, operator: Any) -> None:
    def run(function: Any) -> list[Tensor]:
        x, y = (random_like(torch.empty(1, 4, 2, 3), seed).to(device).requires_grad_() for seed in (0, 1))
        out = function(x, y, backend="triton")
        total = out if isinstance(out, Tensor) else out[0] - 2 * out[1]
        return [total, *torch.autograd.grad(total, [x, y], torch.ones_like(total))]

    for result, expected in zip(
        run(torch.compile(operator, backend="aot_eager", fullgraph=True)), run(operator), strict=True
    ):
        torch.testing.assert_close(result, expected)
