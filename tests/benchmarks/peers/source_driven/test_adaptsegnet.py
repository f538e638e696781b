"""The discriminator against the published layers, its losses against torch's, and the first step by hand."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers.run import adapt
from benchmarks.peers.source_driven import SOURCE_DRIVEN, adaptsegnet
from benchmarks.peers.source_driven.source import source_frames
from benchmarks.peers.target import Target, frames, warm_start
from sfda_engine.data.readers import LabelledImages
from sfda_engine.models import ARCHITECTURES, build_segmenter

Opened = Callable[..., tuple[nn.Module, Target]]


def test_the_discriminator_is_the_published_one() -> None:
    judge = adaptsegnet.output_discriminator(5)
    widths = [5, 64, 128, 256, 512, 1]
    shapes = [(out, into, 4, 4) for into, out in itertools.pairwise(widths)]
    assert [tuple(layer.weight.shape) for layer in judge if isinstance(layer, nn.Conv2d)] == shapes
    assert [layer.negative_slope for layer in judge if isinstance(layer, nn.LeakyReLU)] == [0.2] * 4
    assert judge(torch.zeros(2, 5, 64, 96)).shape == (2, 1, 2, 3)


def test_losses_are_binary_cross_entropy() -> None:
    logits = 5 * torch.randn(2, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    bce = functional.binary_cross_entropy_with_logits
    torch.testing.assert_close(adaptsegnet.called_source(logits), bce(logits, torch.zeros_like(logits)))
    torch.testing.assert_close(adaptsegnet.called_target(logits), bce(logits, torch.ones_like(logits)))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_auxiliary_head_fits_every_network(arch: str, opened: Opened) -> None:
    _, target = opened()
    network = build_segmenter(arch, 9).eval()
    head = adaptsegnet.auxiliary_head(network, target)
    with torch.no_grad():
        output = network(torch.zeros(1, 3, 64, 64))
        main, auxiliary = adaptsegnet.predictions(output, nn.ModuleList([head]), (64, 64))
    assert main.shape == auxiliary.shape == (1, 9, 64, 64)
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("adaptsegnet_single", [(1.0, 0.001)]),
        ("adaptsegnet_multi", [(1.0, 0.001), (0.1, 0.0002)]),
    ],
)
def test_the_first_step_by_hand(
    name: str,
    weights: list[tuple[float, float]],
    opened: Opened,
    labelled: LabelledImages,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[nn.Module] = []
    fresh: list[nn.Module] = []

    def watched(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        def builder(*arguments: object) -> nn.Module:
            made.append(build(*arguments))
            fresh.append(copy.deepcopy(made[-1]))
            return made[-1]

        return builder

    monkeypatch.setattr(adaptsegnet, "output_discriminator", watched(adaptsegnet.output_discriminator))
    monkeypatch.setattr(adaptsegnet, "auxiliary_head", watched(adaptsegnet.auxiliary_head))
    source, target = opened(steps=1)
    method = SOURCE_DRIVEN[name]
    after = adapt(lambda network, target: method(network, target, labelled), source, target, limit=1000).snapshots[1]
    heads, judges = fresh[: len(weights) - 1], fresh[len(weights) - 1 :]
    assert len(judges) == len(weights)

    start = copy.deepcopy(source)
    warm_start(start, target)
    network = copy.deepcopy(start).train()
    batch, images = next(source_frames(target, labelled)), next(frames(target))

    def outputs(of: Tensor) -> list[Tensor]:
        output = network(of)
        levels = [output.logits, *(head(output.features) for head in heads)]
        return [functional.interpolate(level, size=(32, 32), mode="bilinear") for level in levels]

    bce = functional.binary_cross_entropy_with_logits
    loss, judged = torch.zeros(()), torch.zeros(())
    for judge, (segmentation, adversarial), own, other in zip(
        judges, weights, outputs(batch.images), outputs(images), strict=True
    ):
        on_own, on_other = judge(own.softmax(1)), judge(other.softmax(1))
        loss = loss + segmentation * functional.cross_entropy(own, batch.labels, ignore_index=255)
        loss = loss + adversarial * bce(on_other, torch.zeros_like(on_other))
        judged = judged + (bce(on_own, torch.zeros_like(on_own)) + bce(on_other, torch.ones_like(on_other))) / 2

    gradients = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    for (key, value), gradient in zip(start.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(value - after[key], 2.5e-4 * (gradient + 5e-4 * value), rtol=2e-2, atol=2e-7)
    for own_head, trained in zip(heads, made, strict=False):
        gradients = torch.autograd.grad(loss, list(own_head.parameters()), retain_graph=True)
        for value, new, gradient in zip(own_head.parameters(), trained.parameters(), gradients, strict=True):
            torch.testing.assert_close(value - new, 2.5e-3 * (gradient + 5e-4 * value), rtol=2e-2, atol=2e-7)
    for own_judge, trained in zip(judges, made[len(heads) :], strict=True):
        gradients = torch.autograd.grad(judged, list(own_judge.parameters()), retain_graph=True)
        for value, new, gradient in zip(own_judge.parameters(), trained.parameters(), gradients, strict=True):
            clear = gradient.abs() > 1e-6  # Adam's first step is the sign of the gradient, where that is not noise
            assert clear.any()
            torch.testing.assert_close((value - new)[clear], 1e-4 * gradient.sign()[clear], rtol=2e-2, atol=1e-6)


def test_a_discriminator_learns_what_it_is_shown() -> None:
    """Ten steps on two constant outputs: from chance to certainty."""
    torch.manual_seed(0)
    judge = adaptsegnet.output_discriminator(5)
    adam = torch.optim.Adam(judge.parameters(), lr=1e-3)
    own = (2 * torch.randn(1, 5, 32, 32)).softmax(1)

    def loss() -> Tensor:
        return (adaptsegnet.called_source(judge(own)) + adaptsegnet.called_target(judge(own.flip(1)))) / 2

    assert loss().item() == pytest.approx(math.log(2), rel=0.05)
    for _ in range(10):
        adam.zero_grad()
        loss().backward()
        adam.step()
    assert loss().item() < 0.1
