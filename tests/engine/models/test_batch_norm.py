"""BatchNorm policies against `F.batch_norm` in float64; the warm start against averages by hand."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfda_engine.errors import UserError
from sfda_engine.models.norms import (
    Statistics,
    batch_norm_layers,
    batch_norm_statistics,
    mix_statistics,
    reestimate_statistics,
    require_batch_norm,
    rests_on_batch_norm,
    set_momentum,
)

EPS = 1e-5


def trained_layer(channels: int = 3) -> nn.BatchNorm2d:
    """A BatchNorm layer with weights and statistics of its own, float64, in eval mode."""
    layer = nn.BatchNorm2d(channels, momentum=0.3).double().eval()
    with torch.no_grad():
        for tensor, low in ((layer.weight, 0.5), (layer.bias, -1), (layer.running_mean, -1), (layer.running_var, 0.5)):
            assert tensor is not None
            tensor.copy_(low + 1.5 * torch.rand(channels))
    return layer


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3, 2), nn.BatchNorm2d(5), nn.Dropout(0.5)
    ).eval()


def buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_same(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("use", ["running", "batch", "update"])
def test_each_policy_against_batch_norm_by_hand(use: Statistics, training: bool) -> None:
    layer = trained_layer().train(training)
    x = 2 * torch.randn(4, 3, 5, 6, dtype=torch.float64) + 1
    assert layer.running_mean is not None
    assert layer.running_var is not None
    mean, var = layer.running_mean.clone(), layer.running_var.clone()
    if use == "running":
        expected = F.batch_norm(x, mean, var, layer.weight, layer.bias, False, 0.0, EPS)
    else:
        expected = F.batch_norm(x, None, None, layer.weight, layer.bias, True, 0.0, EPS)
    before = buffers(layer)
    with batch_norm_statistics(layer, use):
        result = layer(x)
    torch.testing.assert_close(result, expected)
    if use != "update":
        assert_same(before, buffers(layer))
        return
    flat = x.transpose(0, 1).flatten(1)
    torch.testing.assert_close(layer.running_mean, 0.7 * mean + 0.3 * flat.mean(1))
    torch.testing.assert_close(layer.running_var, 0.7 * var + 0.3 * flat.var(1, correction=1))
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("use", ["running", "batch", "update"])
def test_the_layers_are_put_back_one_by_one_even_after_an_exception(use: Statistics) -> None:
    model = network()
    model[1].train()
    modes = [(m.training, getattr(m, "track_running_stats", None)) for m in model.modules()]

    def fail() -> None:
        with batch_norm_statistics(model, use):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert [(m.training, getattr(m, "track_running_stats", None)) for m in model.modules()] == modes


def test_policies_nest() -> None:
    layer = trained_layer()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    with batch_norm_statistics(layer, "update"):
        with batch_norm_statistics(layer, "batch"):
            layer(x)
        assert layer.num_batches_tracked == 0
        layer(x)
    assert layer.num_batches_tracked == 1


def test_other_layers_keep_their_mode() -> None:
    model = network()
    with batch_norm_statistics(model, "update"):
        assert not model[5].training
        assert not model.training


def test_set_momentum_reaches_every_layer() -> None:
    model = network()
    set_momentum(model, 0.02)
    assert [layer.momentum for layer in batch_norm_layers(model).values()] == [0.02, 0.02]


def test_reestimated_statistics_are_the_average_over_batches() -> None:
    """Batches of different size count alike; every layer sees the batch normalized by itself in the layers before."""
    model = network()
    for buffer in model.buffers():
        buffer.fill_(7)  # what was there before must leave no trace
    set_momentum(model, 0.02)
    weights = copy.deepcopy(dict(model.named_parameters()))
    batches = [3 * torch.randn(size, 3, 12, 14) + size for size in (4, 2, 3)]
    reestimate_statistics(model, iter(batches))

    reference = copy.deepcopy(model).double()
    means: dict[int, list[Tensor]] = {1: [], 4: []}
    variances: dict[int, list[Tensor]] = {1: [], 4: []}
    for batch in batches:
        x = batch.double()
        for index, module in enumerate(reference.children()):
            if isinstance(module, nn.BatchNorm2d):
                flat = x.transpose(0, 1).flatten(1).detach()
                means[index].append(flat.mean(1))
                variances[index].append(flat.var(1, correction=1))
                x = F.batch_norm(x, None, None, module.weight, module.bias, True, 0.0, EPS)
            else:
                x = module(x)
    for index in means:
        layer = model[index]
        torch.testing.assert_close(layer.running_mean.double(), torch.stack(means[index]).mean(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            layer.running_var.double(), torch.stack(variances[index]).mean(0), rtol=1e-5, atol=1e-5
        )
        assert layer.num_batches_tracked == 3
        assert layer.momentum == 0.02
        assert not layer.training
    assert_same(weights, dict(model.named_parameters()))


def test_a_failing_batch_leaves_the_momentum() -> None:
    model = network()
    set_momentum(model, 0.02)
    with pytest.raises(RuntimeError):
        reestimate_statistics(model, [torch.randn(2, 4, 12, 12)])  # four channels
    assert [layer.momentum for layer in batch_norm_layers(model).values()] == [0.02, 0.02]
    assert not model[1].training


def test_reestimation_is_not_differentiated() -> None:
    model = network()
    reestimate_statistics(model, [torch.randn(2, 3, 12, 12, requires_grad=True)])
    assert all(not buffer.requires_grad for buffer in model.buffers())


@pytest.mark.parametrize(
    "norm",
    [
        nn.LayerNorm([4, 6, 6]),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, track_running_stats=True),
        nn.BatchNorm2d(4, track_running_stats=False),
    ],
    ids=["layer", "group", "instance", "batch without statistics"],
)
def test_a_model_without_batch_norm_is_refused(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm)
    assert batch_norm_layers(model) == {}
    assert not rests_on_batch_norm(model)
    with pytest.raises(UserError, match=r"^method\.alpha is 1.*method\.beta"):
        require_batch_norm(model, "method.alpha is 1")


def test_a_model_with_batch_norm_is_accepted_and_its_layers_are_named() -> None:
    model = nn.Sequential(nn.LayerNorm(4), nn.Sequential(nn.SyncBatchNorm(4)), nn.BatchNorm1d(2))
    assert list(batch_norm_layers(model)) == ["1.0", "2"]
    require_batch_norm(model, "mixed")


@pytest.mark.parametrize(("others", "rests"), [(0, True), (2, True), (3, False)])
def test_a_network_rests_on_batch_norm_where_that_is_half_of_its_norms(others: int, rests: bool) -> None:
    class LayerNorm2d(nn.Module):
        """Of no library that is known here."""

    model = nn.Sequential(
        nn.BatchNorm2d(4), nn.BatchNorm2d(4), *(LayerNorm2d() for _ in range(others)), nn.Conv2d(4, 4, 1)
    )
    assert rests_on_batch_norm(model) == rests


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixed_statistics_against_the_formula(share: float) -> None:
    own, source = nn.Sequential(trained_layer(), trained_layer()), nn.Sequential(trained_layer(), trained_layer())
    before, of_source = buffers(own), buffers(source)
    mix_statistics(own, source, share)
    for name, after in buffers(own).items():
        if "num_batches" not in name:
            torch.testing.assert_close(after, (1 - share) * before[name] + share * of_source[name])
    assert_same(of_source, buffers(source))


def test_statistics_of_another_architecture_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="shorter"):
        mix_statistics(network().double(), nn.Sequential(trained_layer(4)), 0.5)
