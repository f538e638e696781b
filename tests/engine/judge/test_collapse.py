"""Signals of a collapse against closed forms, and the frames that a probe looks at."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sfda_engine.data.images import ImageSize
from sfda_engine.judge.collapse import (
    CLASSES,
    FLOOR,
    LEFT,
    Probe,
    glances,
    probe_frames,
    shares,
    signals_of,
    statistics_drift,
)
from tests.engine.training.guard_states import same


class Painted(nn.Module):
    """Logits are what was painted, whatever the frames show; one BatchNorm layer."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.norm = nn.Parameter(logits), nn.BatchNorm2d(2)

    def forward(self, images: Tensor) -> Any:
        return SimpleNamespace(logits=self.logits[: len(images)])


def test_signals_against_closed_forms() -> None:
    """Two frames of 1x4 pixels and three classes, painted by probabilities."""
    sure, torn = [0.8, 0.1, 0.1], [0.25, 0.5, 0.25]
    start = torch.tensor([[sure, sure, torn, torn], [sure, torn, [0.1, 0.1, 0.8], [0.1, 0.1, 0.8]]])
    now = torch.tensor([[sure, sure, sure, torn], [sure, torn, sure, [0.1, 0.1, 0.8]]])
    student = Painted(start.log().permute(0, 2, 1)[:, :, None]).eval()
    frames = [Image.new("RGB", (4, 1))] * 2
    probe = Probe(student, frames, nn.Identity(), batch_size=2)
    entropy_sure, entropy_torn = (-sum(p * math.log(p) for p in row) for row in (sure, torn))
    first = probe(student)
    assert first.left == pytest.approx(1)
    assert first.agreement == 1
    assert first.entropy == pytest.approx((5 * entropy_sure + 3 * entropy_torn) / 8, rel=1e-6)
    assert first.confidence == pytest.approx((5 * 0.8 + 3 * 0.5) / 8, rel=1e-6)
    assert first.class_entropy == pytest.approx(-(6 / 8 * math.log(3 / 8) + 2 / 8 * math.log(2 / 8)), rel=1e-9)
    assert first.bn_drift == 0

    student.logits.data = now.log().permute(0, 2, 1)[:, :, None]
    second = probe(student)
    assert second.agreement == 6 / 8
    assert second.class_entropy == pytest.approx(-sum(p * math.log(p) for p in (5 / 8, 2 / 8, 1 / 8)), rel=1e-9)
    assert second.classes_kept == pytest.approx(math.exp(second.class_entropy - first.class_entropy))
    assert second.entropy == pytest.approx((6 * entropy_sure + 2 * entropy_torn) / 8, rel=1e-6)
    assert second.entropy_kept == pytest.approx((second.entropy + FLOOR) / (first.entropy + FLOOR))
    assert second.left == pytest.approx(second.classes_kept**CLASSES * second.entropy_kept)
    assert second.collapsed == (second.left < LEFT)


class Pointwise(nn.Module):
    """Logits of every pixel from its own color."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.norm = nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5)

    def forward(self, images: Tensor) -> Any:
        return SimpleNamespace(logits=self.norm(self.head(images)))


def test_batches_of_the_probe_do_not_matter() -> None:
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)
    frames, student = [Image.fromarray(one) for one in pixels], Pointwise().eval()
    one, two = (Probe(student, frames, nn.Identity(), batch_size=size) for size in (2, 5))
    student.head.weight.data *= 1.5
    assert vars(one(student)) == pytest.approx(vars(two(student)), rel=1e-6)


def test_a_glance_does_not_depend_on_those_before() -> None:
    torch.manual_seed(1)
    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)
    frames, one, other = [Image.fromarray(each) for each in pixels], Pointwise().eval(), Pointwise().eval()
    first, second = (glances(student, frames, nn.Identity(), 3) for student in (one, other))
    again = glances(one, frames, nn.Identity(), 3)
    assert same([tuple(each) for each in first], [tuple(each) for each in again])
    expected = torch.cat([each.labels for each in first]) == torch.cat([each.labels for each in second])
    assert shares(second, first)[-1].item() == pytest.approx(expected.double().mean().item(), abs=1e-12)
    assert torch.equal(shares(second, first)[-1], shares(first, second)[-1])
    assert shares(first, first)[-1] == 1


def test_drift_of_statistics() -> None:
    start = [(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 4.0])), (torch.tensor([2.0]), torch.tensor([1.0]))]
    now = [(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 16.0])), (torch.tensor([2.0]), torch.tensor([math.e**2]))]
    expected = ((1 + math.log(2) ** 2) / 2 + 1) / 2
    assert statistics_drift(now, start) == pytest.approx(expected, rel=1e-4)
    assert statistics_drift(start, start) == 0


@pytest.mark.parametrize(
    ("histogram", "entropy", "agreement", "collapsed"),
    [
        ((0.5, 0.5), 1.0, 1.0, False),
        ((0.5, 0.5), 0.7, 0.9, False),  # surer, and all classes still there: self-training that helps
        ((0.85, 0.15), 0.5, 0.9, True),  # classes vanish while confidence climbs
        ((0.65, 0.35), 1.1, 0.9, False),  # classes shrink while confidence falls
        ((0.5, 0.5), 3.0, 0.4, True),  # another model than it was
    ],
)
def test_what_is_a_collapse(histogram: tuple[float, float], entropy: float, agreement: float, collapsed: bool) -> None:
    shares, even = torch.tensor(histogram).double(), torch.tensor([0.5, 0.5]).double()
    assert signals_of(shares, even, (entropy, 0.8, agreement), 1.0, 0.0).collapsed == collapsed


def test_probe_frames_are_even_and_shared() -> None:
    class Frames:
        def __init__(self, count: int) -> None:
            self.count = count

        def __len__(self) -> int:
            return self.count

        def image(self, index: int) -> Image.Image:
            return Image.new("RGB", (2, 2), (index, 0, 0))

        def name(self, index: int) -> str:
            return str(index)

    def seen(count: int) -> list[int]:
        return [int(np.asarray(frame)[0, 0, 0]) for frame in probe_frames(Frames(count), ImageSize(2, 2))]

    assert seen(61) == list(range(0, 61, 4))
    assert seen(5) == list(range(5))
