"""The discriminator against the published layers, its losses against torch's, and the first step by hand."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.common.methods.run import adapt
from benchmarks.common.methods.source_driven import SOURCE_DRIVEN, adaptsegnet
from benchmarks.common.methods.source_driven.source import LabelledSource, source_frames
from benchmarks.common.methods.target import frames, warm_start
from sfda_engine.models import ARCHITECTURES, build_segmenter
from tests.benchmarks.common.methods.source_driven.conftest import Opened, Step, assert_same, cross_entropy, enlarge


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
    frames_of_source: LabelledSource,
    taken: list[Step],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heads: list[nn.Module] = []
    judges: list[nn.Module] = []

    def kept(build: Callable[..., nn.Module], copies: list[nn.Module]) -> Callable[..., nn.Module]:
        def builder(*arguments: object) -> nn.Module:
            module = build(*arguments)
            copies.append(copy.deepcopy(module))
            return module

        return builder

    monkeypatch.setattr(adaptsegnet, "auxiliary_head", kept(adaptsegnet.auxiliary_head, heads))
    monkeypatch.setattr(adaptsegnet, "output_discriminator", kept(adaptsegnet.output_discriminator, judges))
    source, target = opened(steps=1)
    adapt(partial(SOURCE_DRIVEN[name], labelled=frames_of_source), source, target, limit=1000)
    network = copy.deepcopy(source)
    warm_start(network, target)
    network.train()
    batch, images = next(source_frames(target, frames_of_source)), next(frames(target))

    def maps(of: Tensor) -> list[Tensor]:
        output = network(of)
        return [enlarge(level, of) for level in (output.logits, *(head(output.features) for head in heads))]

    bce = functional.binary_cross_entropy_with_logits
    loss, judged = torch.zeros(()), torch.zeros(())
    for judge, (segmentation, adversarial), own, other in zip(
        judges, weights, maps(batch.images), maps(images), strict=True
    ):
        on_own, on_other = judge(own.softmax(1)), judge(other.softmax(1))
        loss = loss + segmentation * cross_entropy(own, batch.labels)
        loss = loss + adversarial * bce(on_other, torch.zeros_like(on_other))
        judged = judged + (bce(on_own, torch.zeros_like(on_own)) + bce(on_other, torch.ones_like(on_other))) / 2

    sgd, adam = taken
    assert (sgd.kind, adam.kind) == ("SGD", "Adam")
    assert [group["lr"] for group in sgd.settings] == [2.5e-4, 2.5e-3]
    assert {(group["momentum"], group["weight_decay"], group["nesterov"]) for group in sgd.settings} == {
        (0.9, 5e-4, False)
    }
    assert [(group["lr"], group["betas"]) for group in adam.settings] == [(1e-4, (0.9, 0.99))]
    assert_same(sgd.gradients[0], loss, network.parameters())
    assert len(sgd.gradients[1]) == 2 * len(heads)
    if heads:
        assert_same(sgd.gradients[1], loss, heads[0].parameters())
    assert_same(adam.gradients[0], judged, nn.ModuleList(judges).parameters())


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
