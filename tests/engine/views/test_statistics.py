"""Pooled statistics against those of all frames at once in float64; shares against their closed form."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sfda_engine.models.norms import batch_norm_layers
from sfda_engine.views.statistics import target_statistics, write_statistics
from tests.engine.views.networks import Normalized


def batches(*counts: int) -> list[Tensor]:
    """Batches of different brightness, which an average of their variances would miss."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 3, 8, 6, generator=generator) * 0.5 + 3 * index for index, count in enumerate(counts)]


@pytest.mark.parametrize("counts", [(4, 4), (4, 3, 2), (7,)])
def test_the_first_layer_has_the_statistics_of_all_frames(counts: tuple[int, ...]) -> None:
    everything = torch.cat(batches(*counts)).double()
    mean, variance = target_statistics(Normalized().eval(), batches(*counts))["first"]
    torch.testing.assert_close(mean.double(), everything.mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(variance.double(), everything.var((0, 2, 3), correction=0), rtol=1e-5, atol=1e-5)


def test_a_layer_sees_what_the_layers_before_it_normalized_by_batch() -> None:
    mean, variance = target_statistics(Normalized().eval(), batches(4, 4))["second"]
    torch.testing.assert_close(mean, torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(variance, torch.ones(3), rtol=0, atol=1e-3)


def test_a_layer_whose_input_is_one_pixel_keeps_the_sources() -> None:
    assert set(target_statistics(Normalized().eval(), batches(4))) == {"first", "second"}


def test_estimating_changes_nothing() -> None:
    model = Normalized().eval()
    before = copy.deepcopy(model.state_dict())
    target_statistics(model, batches(4, 4))
    assert not model.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def statistics_of(model: torch.nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Running mean and variance by layer."""
    layers: dict[str, _BatchNorm] = batch_norm_layers(model)
    return {name: (layer.running_mean, layer.running_var) for name, layer in layers.items()}  # type: ignore[misc]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_shares_mix_linearly_and_leave_no_trace(share: float) -> None:
    source = Normalized().eval()
    for mean, variance in statistics_of(source).values():
        mean.fill_(5.0)
        variance.fill_(7.0)
    model = copy.deepcopy(source)
    target = target_statistics(source, batches(4, 4))
    write_statistics(model, source, target, 0.6)  # what was written before does not matter
    write_statistics(model, source, target, share)
    mean, variance = target["first"]
    written = statistics_of(model)
    torch.testing.assert_close(written["first"][0], (1 - share) * mean + share * 5)
    torch.testing.assert_close(written["first"][1], (1 - share) * variance + share * 7)
    assert written["pooled"][1].tolist() == [7.0] * 3
    if share == 1:
        assert written["first"][0].tolist() == [5.0] * 3
    assert statistics_of(source)["first"][0].tolist() == [5.0] * 3
