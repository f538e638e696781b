"""L_BNS (Eq. 4) against numpy over the inputs that the BatchNorm layers really saw."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfda_engine.losses.bn_statistics import LayerStatistics, bns_loss, record_statistics
from sfda_engine.models.norms import batch_norm_layers


def source_model(*, pooled: bool = False) -> nn.Sequential:
    """Two BatchNorm layers with statistics of their own, and a third on 1x1 maps where `pooled`."""
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, 2)]
    layers.append(nn.BatchNorm2d(6))
    if pooled:
        layers += [nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(6)]
    model = nn.Sequential(*layers).eval().requires_grad_(False)
    for layer in batch_norm_layers(model).values():
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2.0)
    return model


def inputs_of_batch_norm(model: nn.Module, images: Tensor) -> list[np.ndarray]:
    seen: list[np.ndarray] = []
    handles = [
        layer.register_forward_hook(lambda layer, args, output: seen.append(args[0].detach().double().numpy()))
        for layer in batch_norm_layers(model).values()
    ]
    model(images)
    for handle in handles:
        handle.remove()
    return seen


def by_hand(model: nn.Module, images: Tensor, printed: bool) -> float:
    total, layers = 0.0, 0
    for x, layer in zip(inputs_of_batch_norm(model, images), batch_norm_layers(model).values(), strict=True):
        if x.shape[2:] == (1, 1):
            continue
        assert layer.running_mean is not None
        assert layer.running_var is not None
        for difference in (
            x.mean((0, 2, 3)) - layer.running_mean.double().numpy(),
            x.var((0, 2, 3), ddof=0) - layer.running_var.double().numpy(),
        ):
            squares = float((difference**2).sum())
            total += squares if printed else math.sqrt(squares)
        layers += 1
    return total if printed else total / layers


def loss_of(model: nn.Module, images: Tensor, printed: bool) -> Tensor:
    with record_statistics(model) as layers:
        model(images)
    return bns_loss(layers, printed=printed)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("printed", [False, True])
def test_against_numpy(printed: bool, pooled: bool) -> None:
    model, images = source_model(pooled=pooled), 2 * torch.randn(3, 3, 9, 12) + 0.5
    assert loss_of(model, images, printed).item() == pytest.approx(by_hand(model, images, printed), rel=1e-5)


def test_hand_computed() -> None:
    """Two layers: differences (3, 4) and (0, 0), then (0) and (2)."""
    zero = torch.zeros
    layers = [
        LayerStatistics(torch.tensor([3.0, 4.0]), torch.ones(2), zero(2), torch.ones(2)),
        LayerStatistics(zero(1), torch.tensor([3.0]), zero(1), torch.ones(1)),
    ]
    assert bns_loss(layers).item() == (5 + 2) / 2
    assert bns_loss(layers, printed=True).item() == 25 + 4
    assert bns_loss(layers).item() == 3.5


def test_the_variance_is_biased() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1)).eval()
    with record_statistics(model) as layers:
        model(torch.tensor([0.0, 2.0]).view(1, 1, 1, 2))
    assert (layers[0].mean.item(), layers[0].variance.item()) == (1.0, 1.0)


def test_a_1x1_input_is_left_out() -> None:
    model, images = source_model(pooled=True), torch.randn(2, 3, 9, 9)
    with record_statistics(model) as layers:
        model(images)
    assert [layer.mean.numel() for layer in layers] == [4, 6]


def test_statistics_are_fp32_under_autocast() -> None:
    """bfloat16 sums of a map with a large mean are off by percents; the statistics of its values are not."""
    model, images = source_model(), torch.randn(4, 3, 20, 20) + 30
    with torch.autocast("cpu", torch.bfloat16):
        seen = inputs_of_batch_norm(model, images)
        with record_statistics(model) as layers:
            model(images)
        loss = bns_loss(layers)
    assert loss.dtype == torch.float32
    for x, layer in zip(seen, layers, strict=True):
        assert layer.mean.dtype == layer.variance.dtype == torch.float32
        np.testing.assert_allclose(layer.mean.numpy(), x.mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(layer.variance.numpy(), x.var((0, 2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("printed", [False, True])
def test_gradcheck(printed: bool) -> None:
    def tensor(size: int) -> Tensor:
        return torch.randn(size, dtype=torch.float64, requires_grad=True)

    fixed = [tensor(size).detach() for size in (3, 3, 5, 5)]
    free = [tensor(size) for size in (3, 3, 5, 5)]

    def loss(*free: Tensor) -> Tensor:
        layers = [LayerStatistics(*free[i : i + 2], *fixed[i : i + 2]) for i in (0, 2)]
        return bns_loss(layers, printed=printed)

    assert torch.autograd.gradcheck(loss, free)


@pytest.mark.parametrize("printed", [False, True])
def test_the_gradient_of_the_images_is_that_of_finite_differences(printed: bool) -> None:
    model, images = source_model(), torch.randn(3, 3, 9, 12, requires_grad=True)
    loss_of(model, images, printed).backward()
    assert images.grad is not None
    assert (images.grad.flatten(1).abs().amax(1) > 0).all()
    direction = images.grad / images.grad.norm()
    step = 1e-3
    exact = model.double()
    high, low = (by_hand(exact, (images.detach() + s * direction).double(), printed) for s in (step, -step))
    assert images.grad.norm().item() == pytest.approx((high - low) / (2 * step), rel=1e-3)


@pytest.mark.parametrize("printed", [False, True])
def test_zero_with_a_finite_gradient_where_the_batch_has_the_running_statistics(printed: bool) -> None:
    model, images = source_model(), torch.randn(3, 3, 9, 12, requires_grad=True)
    for index, layer in enumerate(batch_norm_layers(model).values()):
        with record_statistics(model) as layers, torch.no_grad():
            model(images)
            layer.running_mean = layers[index].mean
            layer.running_var = layers[index].variance
    loss = loss_of(model, images, printed)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert loss_of(model, images.detach() * 1.5, printed) > 0.1


def test_the_source_is_untouched_and_the_hooks_are_gone() -> None:
    model, images = source_model(), torch.randn(3, 3, 9, 12)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = model(images)

    def fail() -> None:
        with record_statistics(model):
            raise RuntimeError("inside")

    with record_statistics(model) as layers:
        assert torch.equal(model(images), plain)
    with pytest.raises(RuntimeError, match="inside"):
        fail()
    model(images)
    assert len(layers) == 2
    assert not any(layer._forward_pre_hooks for layer in model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
