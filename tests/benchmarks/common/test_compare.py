"""No time on red: a provider that is wrong, or that fails, gets a row and no time; the right ones are timed."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import attention, patch_entropy
from benchmarks.common import equations
from benchmarks.common.case import Benchmark, Case
from benchmarks.common.compare import measure_case
from benchmarks.common.measure import peak_memory_mb
from benchmarks.common.passes import build_pass, error_of, evaluate

CPU = torch.device("cpu")
(PATCH,) = patch_entropy.cases(CPU, quick=True)
KL, SPATIAL, CHANNEL, L1 = attention.cases(CPU, quick=True)


def halved_gradient(logits: Tensor, case: Case) -> tuple[Tensor, ...]:
    """Right values, wrong gradient."""
    return patch_entropy.eager(case, True, logits.detach() + 0.5 * (logits - logits.detach()))


def swapped_ranks(logits: Tensor, case: Case) -> tuple[Tensor, ...]:
    entropy, rank, max_square = patch_entropy.eager(case, True, logits)
    return entropy, rank.flip(0), max_square


def refuses(logits: Tensor, case: Case) -> tuple[Tensor, ...]:
    raise RuntimeError("out of resources\nand a long story")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [(halved_gradient, "wrong: error 5.0e-01"), (swapped_ranks, "wrong: error inf"), (refuses, "RuntimeError: out of")],
)
def test_a_wrong_provider_is_refused_and_the_right_one_timed(wrong: Any, told: str) -> None:
    def providers(case: Case, device: torch.device) -> dict[str, Any]:
        return {"wrong": partial(wrong, case=case), "right": partial(patch_entropy.eager, case, True)}

    benchmark = dataclasses.replace(patch_entropy.BENCHMARK, providers=providers)
    rows = measure_case(benchmark, PATCH, CPU, seconds=0.0, memory=False)
    assert [(row.provider, row.direction) for row in rows] == [
        (provider, direction) for direction in ("forward", "backward", "both") for provider in ("wrong", "right")
    ]
    for row in rows:
        if row.provider == "right":
            assert row.p50_ms is not None
            assert row.p50_ms > 0
            assert row.note == ""
        else:
            assert row.p20_ms is row.p50_ms is row.p80_ms is row.peak_memory_mb is None
            assert row.note.startswith(told)


def test_the_error_is_the_largest_of_all_tensors() -> None:
    truth = [torch.tensor([3.0, 4.0]).double(), torch.tensor([1, 2])]
    assert error_of([torch.tensor([3.0, 4.5]), torch.tensor([1, 2])], truth) == pytest.approx(0.1)
    assert math.isinf(error_of([torch.tensor([3.0, 4.0]), torch.tensor([2, 1])], truth))
    assert math.isinf(error_of([torch.tensor([3.0, math.nan]), torch.tensor([1, 2])], truth))


@pytest.mark.parametrize(
    ("benchmark", "case"),
    [(attention.BENCHMARK, case) for case in (KL, SPATIAL, CHANNEL, L1)] + [(patch_entropy.BENCHMARK, PATCH)],
    ids=lambda value: value.op if isinstance(value, Case) else "",
)
def test_every_provider_on_a_cpu_is_right(benchmark: Benchmark, case: Case) -> None:
    inputs = benchmark.inputs(case)
    expected = evaluate(benchmark.reference(case), tuple(tensor.double() for tensor in inputs))
    providers = benchmark.providers(case, CPU)
    assert providers.keys() == {"eager fp32", "ours"}
    for function in providers.values():
        assert error_of(evaluate(function, inputs), expected) <= benchmark.tolerance(case)


def test_the_branches_add_up_to_the_whole() -> None:
    inputs = attention.inputs(KL)
    whole = attention.providers(KL, CPU)["ours"](*inputs)
    for case, value in zip((SPATIAL, CHANNEL), whole, strict=True):
        (alone,) = attention.providers(case, CPU)["ours"](*inputs)
        torch.testing.assert_close(alone, value)
    counts = [attention.count(case, "both").flop for case in (KL, SPATIAL, CHANNEL)]
    assert counts[0] == counts[1] + counts[2]


def test_features_have_attention_worth_comparing() -> None:
    """Inputs whose divergence was nothing but rounding would make every provider right, or none."""
    for divergence in equations.attention_kl(*(tensor.double() for tensor in attention.inputs(KL))):
        assert divergence.min() > 0.05


def test_memory_of_a_pass_is_taken_in_another_process() -> None:
    arguments = (patch_entropy.BENCHMARK, PATCH, "eager fp32", "both")
    assert 0 < peak_memory_mb(build_pass, *arguments, device=CPU) < 100
