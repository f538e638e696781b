"""The Triton patch entropy against the float64 reference, which `patches/test_patch_entropy` holds to loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfda_kernels import PatchEntropy, patch_entropy, rank_patches
from sfda_kernels.patches import launch, triton_columns
from sfda_kernels.patches import patch_entropy as operator

SHAPES = {
    "upsampled, ragged": ((2, 3, 2, 4), 3, (7, 11)),
    "upsampled, odd": ((2, 3, 2, 3), 2, (5, 7)),
    "same size": ((2, 5, 5, 7), 4, (5, 7)),
    "downsampled": ((2, 3, 5, 8), 2, (3, 5)),
}

FLOOR = 0.1  # an entropy near zero is a difference of larger numbers


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(device, dtype)


def run(logits: Tensor, grid: int, size: tuple[int, int], backend: Any = "triton") -> Any:
    """The result and the gradient of the logits for the same random upstream gradients."""
    logits = logits.detach().requires_grad_()
    result = patch_entropy(logits, grid, size, backend=backend)
    upstream = [numbers(len(logits), grid**2, seed=1), numbers(seed=2)]
    outputs = [result.entropy, result.max_square]
    upstream = [u.to(output) for u, output in zip(upstream, outputs, strict=True)]
    return result, *torch.autograd.grad(outputs, logits, upstream)


def check(precision: Any, logits: Tensor, grid: int, size: tuple[int, int]) -> PatchEntropy:
    result, gradient = run(logits, grid, size)
    expected, expected_gradient = run(logits.cpu().double(), grid, size, "torch")
    precision.close(result.entropy, expected.entropy, FLOOR)
    precision.close(result.max_square, expected.max_square)
    precision.close_gradient(gradient, expected_gradient, FLOOR)
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
    monkeypatch.setattr(launch, "TILE_ROWS", 2)
    monkeypatch.setattr(launch, "_columns", lambda width: (4, 1))
    check(precision, numbers(1, 2, 2, 4, device=device), 2, (7, 9))


@pytest.mark.parametrize("precision", ["fp32"], indirect=True)
@settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 6)),
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    st.integers(1, 3),
)
@example((1, 2, 1, 1), (2, 1), 1)  # one node
@example((1, 2, 1, 2), (18, 3), 1)  # cells of three tiles
@example((2, 2, 3, 2), (1, 2), 1)  # one pixel
def test_any_shape(precision: Any, device: str, shape: tuple[int, ...], size: tuple[int, int], grid: int) -> None:
    check(precision, numbers(*shape, device=device), min(grid, *size), size)


@pytest.mark.parametrize("precision", ["fp32"], indirect=True)
@pytest.mark.parametrize("layout", ["slice", "channels last", "transposed"])
def test_strided_and_offset_views_of_poisoned_memory(precision: Any, device: str, layout: str) -> None:
    """Everything around the logits is NaN: a read outside of the view shows."""
    around = torch.full((4, 9, 9, 16), torch.nan, device=device)
    match layout:
        case "slice":
            view = around[1:3, 2:7, 1:8:3, 3::4]
        case "channels last":
            view = around.permute(0, 3, 1, 2)[1:3, 4:9, 2:5, 1:5]
        case _:
            view = around.transpose(0, 1)[3:5, :3, 4:9, :4].transpose(1, 2)
    view.copy_(numbers(*view.shape, device=device))
    assert not view.is_contiguous()
    check(precision, view, 2, (3, 5))


@pytest.mark.parametrize("precision", ["fp32"], indirect=True)
@pytest.mark.parametrize("size", [(3, 4), (5, 6)], ids=["same size", "upsampled"])
@pytest.mark.parametrize("name", ["entropy", "max_square"])
def test_one_upstream_gradient(precision: Any, device: str, name: str, size: tuple[int, int]) -> None:
    logits = numbers(2, 3, 3, 4, device=device)
    gradients = []
    for backend, wide in [("triton", logits), ("torch", logits.cpu().double())]:
        wide = wide.detach().requires_grad_()
        output = getattr(patch_entropy(wide, 2, size, backend=backend), name)
        gradients += torch.autograd.grad(output, wide, numbers(*output.shape, seed=3).to(output))
    precision.close_gradient(*gradients, FLOOR)


def test_ties_rank_in_batch_order_and_nan_last(device: str) -> None:
    logits = numbers(5, 3, 2, 4, device=device)
    logits[2] = logits[0]
    logits[1, 0, 0, 0] = math.nan
    logits[3] *= 0  # the highest entropy
    result = patch_entropy(logits, 2, (4, 4), backend="triton")
    assert result.entropy[1].isnan().tolist() == [True, False, True, False]
    assert result.max_square.isnan()
    assert torch.equal(result.rank, rank_patches(result.entropy))
    assert result.rank[1, 0] == 4
    assert (result.rank[2] == result.rank[0] + 1).all()
    assert result.rank[3].tolist() == [3, 4, 3, 4]
    assert result.entropy[[0, 2, 3, 4]].isfinite().all()


@pytest.mark.parametrize("size", [(2, 4), (5, 6)], ids=["same size", "upsampled"])
def test_a_masked_class_counts_nothing(device: str, size: tuple[int, int]) -> None:
    logits = numbers(2, 3, 2, 4, device=device)
    logits[:, 1] = -math.inf
    logits[0] *= 100  # exp of these overflows
    result, gradient = run(logits, 2, size)
    expected, expected_gradient = run(logits[:, [0, 2]], 2, size)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(gradient[:, [0, 2]], expected_gradient)
    assert (gradient[:, 1] == 0).all()


def test_equal_inputs_give_equal_bits(device: str) -> None:
    logits = numbers(2, 3, 2, 3, device=device)
    (first, gradient), (second, again) = run(logits, 2, (3, 4)), run(logits, 2, (3, 4))
    assert all(torch.equal(a, b) for a, b in zip((*first, gradient), (*second, again), strict=True))


def test_the_kernels_run_where_they_are_asked_for(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not more of them than named: the gather is left out where nothing is upsampled."""
    launched = []
    for name in ("sums_kernel", "rank_kernel", "gradient_kernel", "gather_kernel"):

        class Spy:
            def __init__(self, name: str) -> None:
                self.name, self.kernel = name, getattr(triton_columns, name)

            def __getitem__(self, grid: Any) -> Any:
                launched.append(self.name)
                return self.kernel[grid]

        monkeypatch.setattr(triton_columns, name, Spy(name))

    run(numbers(2, 3, 2, 2, device=device), 2, (3, 4))
    assert launched == ["sums_kernel", "rank_kernel", "gradient_kernel", "gather_kernel"]
    launched.clear()
    run(numbers(2, 3, 3, 4, device=device), 2, (3, 4), backend="auto")
    assert launched == (["sums_kernel", "rank_kernel", "gradient_kernel"] if device == "cuda" else [])
    launched.clear()
    run(numbers(2, 3, 3, 4, device=device), 2, (3, 4), backend="torch")
    assert not launched
    with pytest.raises(ValueError, match="float64"):
        patch_entropy(numbers(2, 3, 3, 4, dtype=torch.float64, device=device), 2, (3, 4), backend="triton")


def test_operators_keep_the_rules_of_pytorch(device: str) -> None:
    logits = numbers(2, 2, 2, 2, device=device)
    settings = (1, 2, 3, True)
    torch.library.opcheck(operator.patch_entropy, (logits.clone().requires_grad_(), *settings))
    for upstream in [(numbers(2, 1, device=device), None), (None, numbers(device=device))]:
        torch.library.opcheck(operator.patch_entropy_backward, (logits, *upstream, *settings))


def test_one_graph_under_torch_compile(device: str) -> None:
    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss(logits: Tensor, backend: str) -> Tensor:
        result = patch_entropy(logits, 2, (3, 4), backend=backend)
        return result.max_square + (result.entropy * result.rank).sum()

    logits = numbers(2, 3, 2, 3, device=device).requires_grad_()
    for backend in ("triton", "auto"):
        compiled, plain = loss(logits, backend), loss.__wrapped__(logits, backend)
        torch.testing.assert_close(compiled, plain, rtol=0, atol=0)
        torch.testing.assert_close(*(torch.autograd.grad(value, logits) for value in (compiled, plain)))


def test_cuda_graph(device: str) -> None:
    if device == "cpu":
        pytest.skip("CUDA graphs need a CUDA device")
    settings = (2, 6, 8, True)
    logits, other = numbers(2, 3, 3, 4, device=device), numbers(2, 3, 3, 4, seed=1, device=device)
    upstream = numbers(2, 4, seed=2, device=device), numbers(seed=3, device=device)

    def both() -> list[Tensor]:
        forward = operator.patch_entropy(logits, *settings)
        return [*forward, operator.patch_entropy_backward(logits, *upstream, *settings)]

    both()  # compiles, which a capture cannot
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = both()
    logits.copy_(other)
    graph.replay()
    for replayed, expected in zip(captured, both(), strict=True):
        torch.testing.assert_close(replayed, expected, rtol=0, atol=0)
