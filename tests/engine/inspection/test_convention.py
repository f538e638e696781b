"""The measurements behind the intake: distances from the source, conventions, and a network left as it was."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfda_engine.inspection.convention import (
    equivalent,
    first_layer_distance,
    fit_conventions,
    normalized,
    other_conventions,
    reordered,
    source_distance,
    warm_entropy,
)
from sfda_engine.losses.bn_statistics import LayerStatistics, layer_distance, record_statistics
from sfda_engine.models import build_segmenter
from sfda_engine.models.norms import batch_norm_layers, reestimate_statistics
from sfda_engine.models.preprocess import Normalization, Preprocess

IMAGENET = Normalization()
# the same convention as torchvision's older recipes write it
IMAGENET_255 = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "rgb", 255.0)


@pytest.fixture(scope="module")
def frames() -> Tensor:
    """Six smooth random frames, each of a brightness of its own."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(6, 3, 5, 5, generator=generator) * torch.linspace(0.4, 1, 6).view(6, 1, 1, 1)
    return nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")


@pytest.fixture(scope="module")
def network(frames: Tensor) -> nn.Module:
    """A random StreetNet whose BatchNorm statistics are those of the frames under ImageNet's normalization."""
    torch.manual_seed(0)
    model = build_segmenter("streetnet", 5).eval()
    reestimate_statistics(model, [Preprocess(IMAGENET)(frames)])
    return model


def test_layer_distance_is_its_formula_in_float64() -> None:
    rng = np.random.default_rng(0)
    mean, running_mean = rng.normal(size=(2, 7))
    variance, running_variance = rng.uniform(0.5, 4, size=(2, 7))
    layer = LayerStatistics(*(torch.from_numpy(v) for v in (mean, variance, running_mean, running_variance)))
    ratios = np.log(np.sqrt(variance) / np.sqrt(running_variance))
    expected = np.mean((mean - running_mean) ** 2 / running_variance + ratios**2)
    assert layer_distance(layer).item() == pytest.approx(expected, rel=1e-4)
    same = layer._replace(mean=layer.running_mean, variance=layer.running_variance)
    assert layer_distance(same).item() == 0


def test_a_layer_without_spread_gives_a_finite_distance() -> None:
    zero = torch.zeros(3)
    assert layer_distance(LayerStatistics(zero, zero, zero, zero)).item() == 0
    assert np.isfinite(layer_distance(LayerStatistics(zero, zero, zero, torch.ones(3))).item())


def test_source_distance_of_frames_one_by_one_is_that_of_the_whole_batch(network: nn.Module, frames: Tensor) -> None:
    inputs = Preprocess(IMAGENET)(frames).mul(0.7)
    with record_statistics(network) as layers, torch.no_grad():
        network(inputs)
    expected = torch.stack([layer_distance(layer) for layer in layers]).mean().item()
    assert expected > 0.01
    assert source_distance(network, inputs.split(1)) == pytest.approx(expected, rel=1e-4)
    assert first_layer_distance(network, inputs.split(1)) == pytest.approx(layer_distance(layers[0]).item(), rel=1e-4)


def test_source_is_at_no_distance_from_itself(network: nn.Module, frames: Tensor) -> None:
    # the running variance is unbiased, hence not zero
    assert source_distance(network, normalized(frames, IMAGENET)) < 1e-3


def test_first_layer_distance_ends_the_pass_there(network: nn.Module, frames: Tensor) -> None:
    ran: list[str] = []
    layers = batch_norm_layers(network)
    handles = [layer.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, layer in layers.items()]
    first_layer_distance(network, normalized(frames, IMAGENET))
    assert ran == []
    with torch.no_grad():
        network(frames)
    assert len(ran) == len(layers)  # and later passes run to their end
    for handle in handles:
        handle.remove()


def test_warm_entropy_is_that_of_the_warm_started_network(network: nn.Module, frames: Tensor) -> None:
    inputs = normalized(frames * 0.5, IMAGENET, batch=3)
    assert [len(batch) for batch in inputs] == [3, 3]
    warm = copy.deepcopy(network)
    reestimate_statistics(warm, inputs)
    with torch.no_grad():
        entropy = torch.distributions.Categorical(logits=warm(torch.cat(inputs)).logits.movedim(1, -1)).entropy()
    assert warm_entropy(network, inputs) == pytest.approx(entropy.mean().item(), rel=1e-4)


def test_no_batch_is_left_with_a_single_frame(frames: Tensor) -> None:
    many = frames.repeat(2, 1, 1, 1)[:9]
    assert [len(batch) for batch in normalized(many, IMAGENET, batch=8)] == [5, 4]


def test_network_is_left_as_it_was(network: nn.Module, frames: Tensor) -> None:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    random = torch.get_rng_state()
    fit_conventions(network, frames, IMAGENET)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())
    assert not any(module.training for module in network.modules())
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_the_true_convention_is_the_nearest_whatever_is_stated(order: str, network: nn.Module, frames: Tensor) -> None:
    for stated in (replace(IMAGENET, value_range=255.0), Normalization((0.0,) * 3, (1.0,) * 3)):
        fits = fit_conventions(network, frames, reordered(stated, "bgr" if order == "bgr" else "rgb"))
        best = fits.others["rgb"][0]
        assert equivalent(best.normalization, IMAGENET)
        assert best.distance < 1e-2
        assert fits.stated["rgb"].distance > 1


def test_reordered_keeps_mean_and_std_with_their_colors(frames: Tensor) -> None:
    swapped = reordered(IMAGENET, "bgr")
    assert swapped.mean == (0.406, 0.456, 0.485)
    assert torch.equal(Preprocess(swapped)(frames), Preprocess(IMAGENET)(frames).flip(1))
    assert reordered(swapped, "rgb") == IMAGENET


def test_one_convention_written_in_two_ways_is_one() -> None:
    assert equivalent(IMAGENET, IMAGENET_255)
    assert not equivalent(IMAGENET, replace(IMAGENET, value_range=255.0))
    assert not equivalent(IMAGENET, replace(IMAGENET, mean=(0.55, 0.456, 0.406)))
    others = other_conventions(IMAGENET_255).values()
    assert not any(equivalent(IMAGENET, other) for other in others)
    assert all(other.channel_order == "rgb" for other in others)
