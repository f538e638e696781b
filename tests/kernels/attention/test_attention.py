"""Dual attention against a float64 transcription of Eq. 6-10 with loops over rows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.utils._python_dispatch import TorchDispatchMode

from sfda_kernels import attend, attention_kl, attention_l1, channel_attention, pieces, spatial_attention
from sfda_kernels.attention import cpu_strips, reference
from sfda_kernels.precision import full_precision


def maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def oracle_attention(tokens: Tensor, temperature: float, cosine: bool) -> Tensor:
    """(T, D) -> (T, T), one element at a time."""
    scale = torch.ones(len(tokens), dtype=torch.float64)
    if cosine:
        norms = [math.sqrt(sum(value * value for value in row)) for row in tokens.tolist()]
        bound = max(0.01 * math.sqrt(sum(norm * norm for norm in norms) / len(norms)), 1e-12)
        scale = torch.tensor([1 / max(norm, bound) for norm in norms], dtype=torch.float64)
    rows = []
    for i in range(len(tokens)):
        dots = torch.stack([scale[i] * scale[j] * tokens[i].dot(tokens[j]) for j in range(len(tokens))])
        rows.append(torch.softmax(dots / temperature if cosine else dots, 0))
    return torch.stack(rows)


def oracle_kl(p: Tensor, q: Tensor) -> Tensor:
    return torch.where(p > 0, p * (p / q).log(), 0.0).sum(1).mean()


def oracle_attend(features: Tensor, temperature: float, cosine: bool) -> Tensor:
    """(C, N) -> (2C, N), Eq. 10."""
    s = oracle_attention(features.T.contiguous(), temperature, cosine)
    r = oracle_attention(features, temperature, cosine)
    return torch.cat([torch.einsum("ci,ji->cj", features, s), torch.einsum("cd,dn->cn", r, features)])


def reference_kl(x: Tensor, y: Tensor, temperature: float = 0.1, cosine: bool = True) -> tuple[Tensor, Tensor]:
    """`attention_kl` as the reference has it, which on the CPU only second derivatives run."""
    with full_precision(x):
        channel = [reference.scale_tokens(features.flatten(2), temperature, cosine) for features in (x, y)]
        spatial = [reference.scale_tokens(features.flatten(2).mT, temperature, cosine) for features in (x, y)]
        return reference.gram_kl(*spatial), reference.gram_kl(*channel)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=25, deadline=None)
@given(
    shapes,
    st.booleans(),
    st.sampled_from([attention_kl, reference_kl]),
    st.sampled_from([0.1, 0.5]),
    st.integers(0, 99),
)
def test_against_the_transcription(
    shape: tuple[int, int, int, int], cosine: bool, kl: Callable[..., Any], temperature: float, seed: int
) -> None:
    options: dict[str, Any] = {"temperature": temperature, "cosine": cosine}
    x, y = maps(*shape, seed=seed), maps(*shape, seed=seed + 1)
    spatial, channel = kl(x, y, **options)
    attended, distance = attend(x, **options), attention_l1(x, y, **options)
    for b in range(shape[0]):
        fx, fy = x[b].flatten(1), y[b].flatten(1)
        for tokens, result, function in (
            ((fx.T.contiguous(), fy.T.contiguous()), spatial, spatial_attention),
            ((fx, fy), channel, channel_attention),
        ):
            p, q = (oracle_attention(rows, temperature, cosine) for rows in tokens)
            torch.testing.assert_close(result[b], oracle_kl(p, q), atol=1e-9, rtol=1e-7)
            torch.testing.assert_close(function(x, **options)[b], p)
        expected = oracle_attend(fx, temperature, cosine)
        torch.testing.assert_close(attended[b], expected)
        difference = (expected - oracle_attend(fy, temperature, cosine)).abs().mean()
        torch.testing.assert_close(distance[b], difference)


def test_hand_computed() -> None:
    """Orthogonal channels against parallel ones at temperature 1: rows (e, 1) / (e + 1) and (1, 1) / 2."""
    x = torch.tensor([[3.0, 0.0], [0.0, 2.0]], dtype=torch.float64).view(1, 2, 1, 2)
    y = torch.tensor([[1.0, 1.0], [2.0, 2.0]], dtype=torch.float64).view(1, 2, 1, 2)
    p = math.e / (math.e + 1)
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    for result in attention_kl(x, y, temperature=1.0):
        assert result.item() == pytest.approx(expected)
    channel = [[3 * p, 2 * (1 - p)], [3 * (1 - p), 2 * p]]
    torch.testing.assert_close(
        attend(x, temperature=1.0)[0],
        torch.tensor([[3 * p, 3 * (1 - p)], [2 * (1 - p), 2 * p], *channel], dtype=torch.float64),
    )


def test_rows_sum_to_one_in_the_query_sense() -> None:
    x = maps(2, 5, 3, 4, dtype=torch.float32)
    s, r = spatial_attention(x), channel_attention(x)
    assert s.shape == (2, 12, 12)
    assert r.shape == (2, 5, 5)
    for attention in (s, r):
        torch.testing.assert_close(attention.sum(2), torch.ones(attention.shape[:2]))
    values = x.flatten(2)
    attended = attend(x)
    low, high = values.amin(2, keepdim=True), values.amax(2, keepdim=True)
    assert ((attended[:, :5] >= low - 1e-6) & (attended[:, :5] <= high + 1e-6)).all()
    torch.testing.assert_close(attended[:, :5], values @ s.mT)
    torch.testing.assert_close(attended[:, 5:], r @ values)


@pytest.mark.parametrize("kl", [attention_kl, reference_kl])
def test_equal_inputs(kl: Callable[..., Any]) -> None:
    x = 5 * maps(3, 4, 2, 5)
    for result in kl(x, x.clone()):
        torch.testing.assert_close(result, torch.zeros(3, dtype=torch.float64))
    assert (attention_l1(x, x.clone()) == 0).all()


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "kl": attention_kl,
    "reference": reference_kl,
    "raw": partial(attention_kl, cosine=False),
    "l1": attention_l1,
    "l1 raw": partial(attention_l1, cosine=False),
    "attend": lambda x, y: attend(x + y),
    "maps": lambda x, y: (spatial_attention(x), channel_attention(y)),
}


def limit_maps(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    """Hold at most `budget` elements of a map, on the paths of the reference and of the formulas."""
    monkeypatch.setattr(pieces, "MAP_BUDGET", budget)
    monkeypatch.setattr(cpu_strips, "STRIP", budget)
    monkeypatch.setattr(cpu_strips, "MIN_ROWS", 1)


@pytest.mark.parametrize("budget", [2**22, 40])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradcheck(name: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_maps(monkeypatch, budget)
    x, y = maps(2, 3, 2, 4).requires_grad_(), maps(2, 3, 4, 2, seed=1).requires_grad_()
    if name == "attend":
        y = maps(2, 3, 2, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(FUNCTIONS[name], (x, y))


@pytest.mark.parametrize("name", ["kl", "reference", "raw", "l1", "attend"])
@pytest.mark.parametrize("budget", [1, 100, 700])
def test_pieces_equal_the_whole(name: str, budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> list[Tensor]:
        x = maps(3, 7, 3, 5).requires_grad_()
        y = maps(3, 7, 3, 5, seed=1).requires_grad_()
        out = FUNCTIONS[name](x, y)
        outputs = [out] if isinstance(out, Tensor) else list(out)
        upstream = [maps(*tensor.shape, seed=2 + i) for i, tensor in enumerate(outputs)]
        with torch.no_grad():
            plain = FUNCTIONS[name](x, y)
        return [
            *outputs,
            *torch.autograd.grad(outputs, [x, y], upstream),
            *([plain] if name == "l1" else plain),
        ]

    whole = run()
    limit_maps(monkeypatch, budget)
    for piecewise, expected in zip(run(), whole, strict=True):
        torch.testing.assert_close(piecewise, expected)


class Largest(TorchDispatchMode):
    """Most elements of any tensor an operator returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("name", ["reference", "attend"])
def test_memory_is_bounded_by_the_budget(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = (maps(2, 6, 12, 12, seed=seed).requires_grad_() for seed in (0, 1))
    one_map = 2 * 144 * 144

    def run(budget: int) -> tuple[int, int]:
        """Elements of the largest tensor, forward or backward, and of all that is kept for the backward."""
        monkeypatch.setattr(pieces, "MAP_BUDGET", budget)
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
            return tensor

        with Largest() as largest:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                out = FUNCTIONS[name](x, y)
            values = out if isinstance(out, Tensor) else torch.cat(out)
            values.backward(maps(*values.shape))
        return largest.elements, sum(kept.values())

    whole, piecewise = run(2**22), run(4096)
    assert whole[0] == one_map
    assert whole[1] > one_map
    assert piecewise[0] <= 4096
    assert piecewise[1] < one_map


def test_healthy_rows_are_normalised_and_dead_rows_scaled() -> None:
    x = maps(2, 6, 3, 4)
    x[:, 2] = 0
    x[:, 4] *= 1e-5
    rows = x.flatten(2)
    scaled = reference.scale_tokens(rows, 1.0, True)
    healthy = [0, 1, 3, 5]
    torch.testing.assert_close(scaled[:, healthy], F.normalize(rows[:, healthy], dim=2))
    bound = 0.01 * rows.square().sum(2).mean(1).sqrt()
    torch.testing.assert_close(scaled[:, 4], rows[:, 4] / bound[:, None])
    assert (scaled[:, 2] == 0).all()
    # The bound is detached: the derivative of a dead row is the constant 1 / bound, of no other row.
    rows.requires_grad_()
    upstream = maps(2, 12, seed=3)
    (grad,) = torch.autograd.grad(reference.scale_tokens(rows, 1.0, True)[:, 2], rows, upstream)
    torch.testing.assert_close(grad[:, 2], upstream / bound[:, None])
    assert (grad[:, healthy] == 0).all()


@pytest.mark.parametrize("name", ["kl", "reference", "l1", "attend"])
def test_dead_channels_have_finite_moderate_gradients(name: str) -> None:
    x, y = maps(2, 6, 3, 4, dtype=torch.float32), maps(2, 6, 3, 4, seed=1, dtype=torch.float32)
    x[0, 2] = y[1, 3] = 0
    x.requires_grad_()
    y.requires_grad_()
    out = FUNCTIONS[name](x, y)
    outputs = [out] if isinstance(out, Tensor) else list(out)
    upstream = [maps(*tensor.shape, seed=4, dtype=torch.float32) for tensor in outputs]
    for grad in torch.autograd.grad(outputs, [x, y], upstream):
        assert grad.isfinite().all()
        assert grad.abs().max() < 1e4


@pytest.mark.parametrize("cosine", [True, False])
def test_a_sample_of_zeros_is_uniform(cosine: bool) -> None:
    x = torch.zeros(2, 4, 2, 3, requires_grad=True)
    y = maps(2, 4, 2, 3, dtype=torch.float32)
    torch.testing.assert_close(spatial_attention(x, cosine=cosine), torch.full((2, 6, 6), 1 / 6))
    assert (attend(x, cosine=cosine) == 0).all()
    spatial, channel = attention_kl(x, y, cosine=cosine)
    (grad,) = torch.autograd.grad([spatial, channel], x, [maps(2, dtype=torch.float32)] * 2)
    assert spatial.isfinite().all()
    assert channel.isfinite().all()
    assert grad.isfinite().all()


def test_saturated_raw_maps_stay_finite() -> None:
    x, y = 30 * maps(1, 8, 3, 3, dtype=torch.float32), 30 * maps(1, 8, 3, 3, seed=1, dtype=torch.float32)
    x.requires_grad_()
    outputs = attention_kl(x, y, cosine=False)
    (grad,) = torch.autograd.grad(outputs, x, [torch.tensor([1.3]), torch.tensor([-0.7])])
    assert all(tensor.isfinite().all() for tensor in (*outputs, grad))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_inputs_accumulate_in_fp32(dtype: torch.dtype) -> None:
    x = maps(2, 20, 4, 5, dtype=dtype).requires_grad_()
    y = maps(2, 20, 4, 5, seed=1, dtype=dtype).requires_grad_()
    wide = (x.detach().double(), y.detach().double())
    for result, expected in zip(
        (*attention_kl(x, y), attention_l1(x, y), attend(x)),
        (*attention_kl(*wide), attention_l1(*wide), attend(wide[0])),
        strict=True,
    ):
        assert result.dtype == torch.float32
        torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    (grad,) = torch.autograd.grad(attention_l1(x, y), y, torch.tensor([0.5, -2.0]))
    assert grad.dtype == dtype


def test_autocast_leaves_the_maps_in_fp32() -> None:
    x, y = maps(2, 20, 4, 5, dtype=torch.float32), maps(2, 20, 4, 5, seed=1, dtype=torch.float32)
    calls = [lambda f=f: f(x, y) for f in FUNCTIONS.values()]
    for call in calls:
        expected = call()
        with torch.autocast("cpu", torch.bfloat16):
            result = call()
        torch.testing.assert_close(result, expected, rtol=0, atol=0)


def test_strided_views() -> None:
    wide = maps(2, 4, 6, 10, dtype=torch.float32)
    x, y = wide[:, :, ::2, 1::3], wide.permute(0, 1, 3, 2)[:, :, ::4, :3]
    assert not x.is_contiguous()
    for result, expected in zip(attention_kl(x, y), attention_kl(x.clone(), y.contiguous()), strict=True):
        torch.testing.assert_close(result, expected)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(attend(channels_last), attend(x.contiguous()))


def test_only_the_inputs_that_require_it_get_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    for budget in (2**22, 10):
        limit_maps(monkeypatch, budget)
        x, y = maps(2, 3, 2, 2).requires_grad_(), maps(2, 3, 2, 2, seed=1)
        assert attention_l1(x, y).requires_grad
        assert attention_l1(y, x).requires_grad
        assert not attention_l1(x.detach(), y).requires_grad


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperature_must_be_positive_and_finite(temperature: float) -> None:
    x = maps(1, 2, 2, 2)
    for call in (attention_kl, attention_l1):
        with pytest.raises(ValueError, match="temperature"):
            call(x, x, temperature=temperature)
    for function in (attend, spatial_attention, channel_attention):
        with pytest.raises(ValueError, match="temperature"):
            function(x, temperature=temperature)


@pytest.mark.parametrize("bad", [maps(2, 3, 4), torch.zeros(1, 2, 2, 2, dtype=torch.int64), maps(0, 2, 2, 2)])
def test_bad_features(bad: Tensor) -> None:
    for function in (attend, spatial_attention, channel_attention):
        with pytest.raises(ValueError, match=r"^features"):
            function(bad)
    for pair in (attention_kl, attention_l1):
        with pytest.raises(ValueError, match=r"^features"):
            pair(maps(1, 2, 2, 2), bad)


@pytest.mark.parametrize("shape", [(2, 2, 2, 3), (1, 3, 2, 3), (1, 2, 2, 2)])
def test_a_pair_must_agree(shape: tuple[int, ...]) -> None:
    for function in (attention_kl, attention_l1):
        with pytest.raises(ValueError, match=re.escape(str(shape))):
            function(maps(1, 2, 2, 3), maps(*shape))


def test_unknown_backend() -> None:
    x = maps(1, 2, 2, 2)
    for call in (
        lambda b: attention_kl(x, x, backend=b),
        lambda b: attention_l1(x, x, backend=b),
        lambda b: attend(x, backend=b),
    ):
        with pytest.raises(ValueError, match="cuda"):
            call("cuda")


def test_mixed_precision_pairs_meet_in_the_wider_type() -> None:
    x, y = maps(2, 4, 2, 3), maps(2, 4, 2, 3, seed=1, dtype=torch.float32)
    for first, second in ((x, y), (y, x)):
        wide = (first.double(), second.double())
        torch.testing.assert_close(attention_kl(first, second), attention_kl(*wide))
        torch.testing.assert_close(attention_l1(first, second), attention_l1(*wide))


@pytest.mark.parametrize("name", ["kl", "raw", "l1"])
def test_compiled_equals_eager(name: str) -> None:
    """One graph, without breaks, in which the operators are single nodes, forward and backward."""
    operators: list[str] = []

    def record(module: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        operators.extend(str(node.target) for node in module.graph.nodes if "sfda_kernels" in str(node.target))
        return make_boxed_func(module.forward)

    def run(function: Callable[..., Any]) -> list[Tensor]:
        x, y = maps(2, 5, 3, 4).requires_grad_(), maps(2, 5, 3, 4, seed=1)
        out = function(x, y)
        outputs = [out] if isinstance(out, Tensor) else list(out)
        return [*outputs, *torch.autograd.grad(outputs, x, [maps(2, seed=2 + i) for i in range(len(outputs))])]

    backend = aot_autograd(fw_compiler=record, bw_compiler=record)
    compiled = torch.compile(FUNCTIONS[name], backend=backend, fullgraph=True, dynamic=False)
    for result, expected in zip(run(compiled), run(FUNCTIONS[name]), strict=True):
        torch.testing.assert_close(result, expected)
    operator = "attended_l1_cpu" if name == "l1" else "gram_kl_cpu"
    assert operators.count(f"sfda_kernels.{operator}.default") == 2
    assert operators.count(f"sfda_kernels.{operator}_backward.default") == 2
