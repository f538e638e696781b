"""The functional BatchNorm against torch's own update of running statistics, in float64."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.models import build_segmenter
from sfda_engine.models.norms import batch_norm_layers
from sfda_export.adaptive import AdaptiveGraph, Statistics, make_adaptive, values_per_channel

ARCHITECTURES = ("streetnet", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large", "segnet_vgg16")


class Logits(nn.Module):
    """What is around the segmenter: here its logits and nothing else."""

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, images: Tensor) -> Tensor:
        return self.segmenter(images).logits


def segmenter_of(arch: str) -> nn.Module:
    """Five classes; random weights, statistics and affine parameters unlike a fresh BatchNorm's; float64, eval."""
    return copy.deepcopy(built(arch))


@functools.cache
def built(arch: str) -> nn.Module:
    torch.manual_seed(3)
    model = build_segmenter(arch, 5).double().eval()
    for layer in batch_norm_layers(model).values():
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.normal_(0.0, 0.3)
        layer.running_var.uniform_(0.5, 2.0)
        layer.weight.data.uniform_(0.5, 1.5)
        layer.bias.data.normal_(0.0, 0.2)
    return model


def frames(count: int, size: tuple[int, int] = (64, 64)) -> Iterator[Tensor]:
    """Batches of one frame, each of its own brightness and contrast."""
    draws = torch.Generator().manual_seed(11)
    for _ in range(count):
        scale, shift = torch.rand(2, generator=draws, dtype=torch.float64)
        yield shift + scale * torch.rand(1, 3, size[1], size[0], generator=draws, dtype=torch.float64)


def torch_adaptation(
    model: nn.Module, adapting: Statistics, momentum: float | None, images: list[Tensor]
) -> tuple[nn.Module, Tensor]:
    """torch's own: a copy whose adapting layers train; the copy and the logits of the last frame."""
    model = copy.deepcopy(model).eval()
    layers = batch_norm_layers(model)
    for entry in adapting.slices:
        layers[entry.name].train().momentum = momentum
        if momentum is None:
            layers[entry.name].num_batches_tracked.zero_()
    with torch.no_grad():
        logits = [model(image).logits for image in images]
    return model, logits[-1]


def run(graph: AdaptiveGraph, images: list[Tensor], normalize: float, update: Callable[[int], float]) -> list[Tensor]:
    """Feed the state of each frame to the next: outputs after the last one."""
    mean, var = graph.statistics.start_mean, graph.statistics.start_var
    for k, image in enumerate(images, start=1):
        weights = torch.full((1,), normalize, dtype=torch.float64), torch.full((1,), update(k), dtype=torch.float64)
        with torch.no_grad():
            output, mean, var = graph(image, mean, var, *weights)
    return [output, mean, var]


def stored(model: nn.Module, adapting: Statistics) -> tuple[Tensor, Tensor]:
    """Running statistics of a plain model, concatenated as `adapting` says."""
    layers = [batch_norm_layers(model)[entry.name] for entry in adapting.slices]
    return torch.cat([layer.running_mean for layer in layers]), torch.cat([layer.running_var for layer in layers])


@pytest.mark.parametrize(
    ("arch", "momentum", "update"),
    [("streetnet", 0.1, lambda k: 0.1), *((arch, None, lambda k: 1 / k) for arch in ARCHITECTURES)],
)
def test_updates_as_torch_does(arch: str, momentum: float | None, update: Callable[[int], float]) -> None:
    images = list(frames(3 if arch == "streetnet" else 2))
    model = segmenter_of(arch)
    adaptive, statistics = make_adaptive(model, ImageSize(64, 64))
    expected, logits = torch_adaptation(model, statistics, momentum, images)
    output, mean, var = run(AdaptiveGraph(Logits(adaptive), statistics), images, 1.0, update)
    expected_mean, expected_var = stored(expected, statistics)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(var, expected_var, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output, logits, rtol=1e-8, atol=1e-8)
    assert (mean - statistics.start_mean).abs().max() > 0.1


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_weights_of_zero_leave_network_and_state_as_they_are(arch: str) -> None:
    model = segmenter_of(arch)
    adaptive, statistics = make_adaptive(model, ImageSize(64, 64))
    images = list(frames(1))
    output, mean, var = run(AdaptiveGraph(Logits(adaptive), statistics), images, 0.0, lambda k: 0.0)
    assert torch.equal(mean, statistics.start_mean)
    assert torch.equal(var, statistics.start_var)
    with torch.no_grad():
        torch.testing.assert_close(output, model(images[0]).logits, rtol=1e-12, atol=1e-12)


def test_alpha_between_the_two_normalizes_with_a_mixture() -> None:
    model = segmenter_of("streetnet")
    first = next(iter(batch_norm_layers(model).items()))
    adaptive, statistics = make_adaptive(model, ImageSize(64, 64))
    seen: list[Tensor] = []
    adaptive.get_submodule(first[0]).register_forward_hook(
        lambda module, inputs, output: seen.extend((*inputs, output))
    )
    run(AdaptiveGraph(Logits(adaptive), statistics), list(frames(1)), 0.25, lambda k: 0.0)
    x, y = seen
    mean = 0.75 * first[1].running_mean + 0.25 * x.mean((0, 2, 3))
    var = 0.75 * first[1].running_var + 0.25 * x.var((0, 2, 3), correction=0)
    expected = (x - mean[:, None, None]) / (var + first[1].eps).sqrt()[:, None, None]
    torch.testing.assert_close(y, expected * first[1].weight[:, None, None] + first[1].bias[:, None, None])


def test_the_network_that_training_uses_is_untouched() -> None:
    model = segmenter_of("streetnet").train()
    before, kinds = copy.deepcopy(model.state_dict()), [type(module) for module in model.modules()]
    adaptive, statistics = make_adaptive(model, ImageSize(64, 64))
    run(AdaptiveGraph(Logits(adaptive), statistics), list(frames(2)), 1.0, lambda k: 1.0)
    assert [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.training


def test_layers_that_see_few_values_keep_their_statistics() -> None:
    model = segmenter_of("deeplabv3_resnet50")
    pooled = "classifier.0.convs.4.2"  # of ASPP's image pooling
    assert values_per_channel(model, ImageSize(96, 64))[pooled] == 1
    adaptive, statistics = make_adaptive(model, ImageSize(96, 64))
    assert {entry.name for entry in statistics.slices} == set(batch_norm_layers(model)) - {pooled}
    assert isinstance(adaptive.get_submodule(pooled), nn.BatchNorm2d)
    small = make_adaptive(built("lraspp_mobilenet_v3_large"), ImageSize(96, 64))[1]  # 24 values at stride 16
    assert 0 < len(small.slices) < len(make_adaptive(built("lraspp_mobilenet_v3_large"), ImageSize(192, 128))[1].slices)


def test_a_size_at_which_nothing_could_adapt_is_refused() -> None:
    with pytest.raises(UserError, match="8x8"):
        make_adaptive(segmenter_of("streetnet"), ImageSize(8, 8))


class Shared(nn.Module):
    """One BatchNorm run twice, one without affine parameters, one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.plain, self.idle = nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.plain(self.conv(self.shared(self.conv(self.shared(images)))))


def test_a_layer_that_runs_twice_updates_twice_as_in_torch() -> None:
    torch.manual_seed(0)
    model = Shared().double().eval()
    adaptive, statistics = make_adaptive(model, ImageSize(16, 16))
    assert [entry.name for entry in statistics.slices] == ["shared", "plain"]
    images = list(frames(2, (16, 16)))
    output, mean, var = run(AdaptiveGraph(adaptive, statistics), images, 1.0, lambda k: 0.1)
    model.shared.train()
    model.plain.train()
    with torch.no_grad():
        expected = [model(image) for image in images][-1]
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close((mean, var), stored(model, statistics))


def test_arrays_are_the_state_of_the_exported_model() -> None:
    model = segmenter_of("streetnet").float()
    statistics = make_adaptive(model, ImageSize(64, 64))[1]
    arrays = statistics.arrays()
    layers = batch_norm_layers(model)
    assert arrays["layers"].tolist() == list(layers)
    for name, offset in zip(arrays["layers"], arrays["offsets"], strict=True):
        own = layers[name]
        assert torch.equal(torch.from_numpy(arrays["mean"])[offset : offset + own.num_features], own.running_mean)
        assert torch.equal(torch.from_numpy(arrays["var"])[offset : offset + own.num_features], own.running_var)
    assert arrays["mean"].dtype == arrays["var"].dtype == "float32"
    assert arrays["mean"].shape == (sum(layer.num_features for layer in layers.values()),)
