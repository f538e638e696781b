"""Patch entropy, MaxSquare and ranking against float64 loops over pixels."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sfda_kernels import patch_entropy, pieces, rank_patches
from sfda_kernels.patches import cpu, reference
from sfda_kernels.patches import patch_entropy as operator


def logit_maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)


def axis_weights(low: int, high: int) -> Tensor:
    """Bilinear weights of each of `high` outputs over `low` inputs."""
    weights = torch.zeros(high, low, dtype=torch.float64)
    for i in range(high):
        position = max((i + 0.5) * low / high - 0.5, 0.0)
        left = min(int(position), low - 1)
        weights[i, left] += 1 - (position - left)
        weights[i, min(left + 1, low - 1)] += position - left
    return weights


def oracle(logits: Tensor, grid: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    vertical = axis_weights(logits.shape[2], size[0])
    horizontal = axis_weights(logits.shape[3], size[1])
    p = torch.softmax(torch.einsum("yh,bkhw,xw->bkyx", vertical, logits, horizontal), 1)
    pixels = torch.special.entr(p).sum(1)
    entropy = torch.zeros(len(logits), grid * grid, dtype=torch.float64)
    rows = torch.arange(size[0]).tensor_split(grid)
    columns = torch.arange(size[1]).tensor_split(grid)
    for b in range(len(logits)):
        for patch in range(grid * grid):
            values = [pixels[b, y, x] for y in rows[patch // grid] for x in columns[patch % grid]]
            entropy[b, patch] = torch.stack(values).mean()
    return entropy, pixels, -(p**2).sum(1).mean() / 2


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 6)),
    st.tuples(st.integers(5, 13), st.integers(5, 11)),
    st.sampled_from([1, 2, 3, 4, 5]),
    st.integers(0, 99),
)
def test_against_loops(shape: tuple[int, int, int, int], size: tuple[int, int], grid: int, seed: int) -> None:
    logits = logit_maps(*shape, seed=seed)
    result = patch_entropy(logits, grid, size)
    entropy, _, max_square = oracle(logits, grid, size)
    torch.testing.assert_close(result.entropy, entropy)
    torch.testing.assert_close(result.max_square, max_square)
    plain = reference.patch_entropy(logits, grid, size)
    torch.testing.assert_close(plain, (entropy, max_square))
    assert result.rank.dtype == torch.int64
    assert torch.equal(result.rank, rank_patches(result.entropy))
    assert torch.equal(result.rank.sort(0).values, torch.arange(shape[0])[:, None].expand(-1, grid * grid))
    assert ((result.entropy >= 0) & (result.entropy <= math.log(shape[1]) + 1e-9)).all()


def test_hand_computed() -> None:
    """Two classes: an undecided left half (log 2, sum p^2 = 1/2), a 3:1 right half."""
    logits = torch.zeros(1, 2, 2, 4)
    logits[0, 0, :, 2:] = math.log(3)
    result = patch_entropy(logits, 2, (2, 4))
    decided = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    torch.testing.assert_close(result.entropy, torch.tensor([[math.log(2), decided] * 2]))
    assert result.max_square.item() == pytest.approx(-(0.5 + 0.625) / 4)
    assert result.rank.tolist() == [[0, 0, 0, 0]]


def test_ragged_patches_cover_every_pixel_once() -> None:
    """11 x 7 pixels, 4 x 4 grid: heights 3 3 3 2, widths 2 2 2 1; the area-weighted mean is the image's."""
    logits = logit_maps(2, 3, 11, 7)
    entropy = patch_entropy(logits, 4, (11, 7)).entropy.view(2, 4, 4)
    areas = torch.tensor([3.0, 3, 3, 2], dtype=torch.float64).outer(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))
    _, pixels, _ = oracle(logits, 1, (11, 7))
    torch.testing.assert_close((entropy * areas).sum((1, 2)) / 77, pixels.mean((1, 2)))


def test_ranking_ties_odd_batches_and_nan() -> None:
    nan, inf = math.nan, math.inf
    entropy = torch.tensor([[0.5, nan, 1.0], [0.2, 0.3, nan], [0.5, 0.1, nan], [0.2, nan, -0.0], [0.1, inf, 0.0]])
    assert rank_patches(entropy).T.tolist() == [[3, 1, 4, 2, 0], [3, 1, 0, 4, 2], [2, 3, 4, 0, 1]]
    equal = rank_patches(torch.zeros(70, 3))
    assert torch.equal(equal, torch.arange(70)[:, None].expand(-1, 3))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_rank_counts_the_images_before_it(batch: int, patches: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    entropy = torch.randint(0, 4, (batch, patches), generator=generator).float()
    rank = rank_patches(entropy)
    for b in range(batch):
        for p in range(patches):
            own = entropy[b, p]
            before = sum(bool(entropy[c, p] < own or (entropy[c, p] == own and c < b)) for c in range(batch))
            assert rank[b, p] == before
    assert ((rank < batch // 2).sum(0) == batch // 2).all()


@pytest.mark.parametrize("piece", [2**22, 1])
def test_gradcheck(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The formula of the backward pass, which the kernels share; and the plain reference by autograd."""
    monkeypatch.setattr(pieces, "MAP_BUDGET", piece)
    monkeypatch.setattr(cpu, "CHUNK", piece)

    def differentiable(logits: Tensor) -> tuple[Tensor, Tensor]:
        result = patch_entropy(logits, 2, (5, 7))
        assert not result.rank.requires_grad
        return result.entropy, result.max_square

    logits = logit_maps(3, 4, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(differentiable, (logits,))
    assert torch.autograd.gradcheck(lambda z: reference.patch_entropy(z, 2, (5, 7)), (logits,))


def run(function: Any, logits: Tensor, grid: int, size: tuple[int, int]) -> list[Tensor]:
    """Entropy, MaxSquare and the gradients of each alone and of both, for random upstream gradients."""
    logits = logits.clone().requires_grad_()
    outputs = list(function(logits, grid, size))
    upstream = [logit_maps(len(logits), grid**2, seed=1).to(logits), logit_maps(seed=2).to(logits)]
    for part in (slice(0, 1), slice(1, 2), slice(0, 2)):
        outputs += torch.autograd.grad(outputs[:2][part], logits, upstream[part], retain_graph=True)
    return outputs


def chunked(logits: Tensor, grid: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    result = patch_entropy(logits, grid, size)
    return result.entropy, result.max_square


@pytest.mark.parametrize("budget", [1, 2 * 4 * 9 * 8])
def test_groups_of_images_equal_the_whole(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(reference.patch_entropy, logit_maps(5, 4, 3, 4), 3, (9, 8))
    monkeypatch.setattr(pieces, "MAP_BUDGET", budget)
    grouped = run(reference.patch_entropy, logit_maps(5, 4, 3, 4), 3, (9, 8))
    torch.testing.assert_close(grouped, whole)


@pytest.mark.parametrize("rows", [1, 4, 99])
@pytest.mark.parametrize("size", [(9, 8), (3, 4), (3, 9), (2, 3)], ids=str)
def test_chunks_of_rows_equal_the_reference(size: tuple[int, int], rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CHUNK", rows * 4 * size[1])
    logits = logit_maps(5, 4, 3, 4)
    torch.testing.assert_close(run(chunked, logits, 2, size), run(reference.patch_entropy, logits, 2, size))


class Largest(TorchDispatchMode):
    """The most elements of a tensor that any operator returns."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_operators_keep_the_rules_of_pytorch(dtype: torch.dtype) -> None:
    logits = logit_maps(2, 3, 2, 3, dtype=dtype)
    entropy, square = logit_maps(2, 4).to(patch_entropy(logits, 2, (3, 4)).entropy), logit_maps()
    settings = (2, 3, 4, False)
    torch.library.opcheck(operator.patch_entropy, (logits.clone().requires_grad_(), *settings))
    for upstream in [(entropy, None), (None, square.to(entropy))]:
        torch.library.opcheck(operator.patch_entropy_backward, (logits, *upstream, *settings))


def test_only_a_chunk_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "CHUNK", 6 * 5 * 40)
    with Largest() as largest:
        cpu.forward(logit_maps(1, 6, 4, 4), 2, (64, 40))
        cpu.backward(logit_maps(1, 6, 4, 4), logit_maps(1, 4), logit_maps(), 2, (64, 40))
    assert largest.elements == 64 * 40  # the pixels' entropies; the upsampled logits are 6 times that


@pytest.mark.parametrize("gap", [200.0, 3e4, math.inf])
@pytest.mark.parametrize("size", [(4, 4), (8, 9)], ids=str)
@pytest.mark.parametrize("function", [chunked, reference.patch_entropy])
def test_zero_probabilities_have_zero_entropy_and_finite_gradients(
    function: Any, size: tuple[int, int], gap: float
) -> None:
    logits = logit_maps(2, 3, 4, 4, dtype=torch.float32)
    logits[:, 1] = -gap
    entropy, max_square, *gradients = run(function, logits, 2, size)
    two_classes = run(function, logits[:, [0, 2]], 2, size)
    torch.testing.assert_close([entropy, max_square], two_classes[:2])
    for gradient, expected in zip(gradients, two_classes[2:], strict=True):
        assert (gradient[:, 1] == 0).all()
        torch.testing.assert_close(gradient[:, [0, 2]], expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("size", [(8, 8), (4, 4)], ids=str)
def test_nan_image_ranks_last_and_leaves_the_others_alone(size: tuple[int, int], bad: float) -> None:
    logits = logit_maps(3, 2, 4, 4, dtype=torch.float32)
    clean = patch_entropy(logits, 2, size)
    logits[0, 0, 0, 0] = bad
    logits.requires_grad_()
    result = patch_entropy(logits, 2, size)
    (gradient,) = torch.autograd.grad(result.entropy[1:].sum(), logits, retain_graph=True)
    assert gradient[1:].isfinite().all()
    (gradient,) = torch.autograd.grad(result.entropy.sum(), logits, retain_graph=True)
    assert gradient[0].isnan().any()
    assert result.max_square.isnan()
    assert result.rank[0, 0] == 2
    assert result.entropy[0, 0].isnan()
    assert torch.equal(result.entropy[:, 1:], clean.entropy[:, 1:])
    assert torch.equal(result.entropy[1:], clean.entropy[1:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_logits_and_autocast_stay_fp32(dtype: torch.dtype) -> None:
    logits = logit_maps(2, 5, 4, 6, dtype=dtype).requires_grad_()
    expected = patch_entropy(logits.detach().double(), 3, (16, 24))
    with torch.autocast("cpu", torch.bfloat16):
        result = patch_entropy(logits, 3, (16, 24))
    assert result.entropy.dtype == result.max_square.dtype == torch.float32
    torch.testing.assert_close(result.entropy.double(), expected.entropy, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.max_square.double(), expected.max_square, rtol=1e-5, atol=1e-5)
    (grad,) = torch.autograd.grad(result.max_square, logits)
    assert grad.dtype == dtype


def test_strided_logits() -> None:
    wide = logit_maps(2, 3, 8, 12)
    view = wide[:, :, ::2, 1::3]
    for layout in (view, view.contiguous(memory_format=torch.channels_last)):
        result = patch_entropy(layout, 3, (9, 10))
        torch.testing.assert_close(result.entropy, patch_entropy(view.clone().contiguous(), 3, (9, 10)).entropy)


@pytest.mark.parametrize(
    ("shape", "grid", "size", "name"),
    [
        ((2, 3, 4), 1, (4, 4), "logits"),
        ((0, 3, 4, 4), 1, (4, 4), "logits"),
        ((1, 3, 4, 4), 0, (4, 4), "grid"),
        ((1, 3, 4, 4), 5, (4, 9), "grid"),
        ((1, 3, 4, 4), 1, (0, 9), "size"),
        ((1, 3, 4, 4), 1, (4,), "size"),
    ],
)
def test_bad_input(shape: tuple[int, ...], grid: int, size: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}"):
        patch_entropy(logit_maps(*shape), grid, size)


def test_integer_logits_and_flat_entropies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^logits"):
        patch_entropy(torch.zeros(1, 2, 3, 3, dtype=torch.int64), 1, (3, 3))
    with pytest.raises(ValueError, match=r"^entropy"):
        rank_patches(torch.zeros(4))


def test_triton_is_imported_only_to_run_its_kernels() -> None:
    code = """
import sys
sys.modules["triton"] = None  # importing it raises
import torch, sfda_kernels
result = sfda_kernels.patch_entropy(torch.randn(2, 3, 4, 4, requires_grad=True), 2, (8, 8))
(result.max_square + result.entropy.sum()).backward()
"""
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root / "kernels")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
