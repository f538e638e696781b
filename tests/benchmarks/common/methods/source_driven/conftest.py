"""What an optimizer is about to descend on, frames with other labels, and a pass by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from benchmarks.common.methods.source_driven.source import LabelledSource
from benchmarks.common.methods.target import Target
from sfda_engine.data.readers import LabelledImages

Opened = Callable[..., tuple[nn.Module, Target]]


class Step(NamedTuple):
    """An optimizer's kind, the settings of its groups, and the gradients of each group."""

    kind: str
    settings: list[dict[str, Any]]
    gradients: list[list[Tensor]]


@pytest.fixture
def taken() -> Iterator[list[Step]]:
    """Every step that any optimizer takes."""
    seen: list[Step] = []

    def note(optimizer: Optimizer, *_: Any) -> None:
        groups = optimizer.param_groups
        settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        gradients = [[parameter.grad.clone() for parameter in group["params"]] for group in groups]
        seen.append(Step(type(optimizer).__name__, settings, gradients))

    handle = register_optimizer_step_pre_hook(note)
    yield seen
    handle.remove()


@dataclass(frozen=True)
class Relabelled:
    """Labelled frames, those of the indices named all of one class."""

    images: LabelledImages
    classes: dict[int, int]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.images.name(index)

    def image(self, index: int) -> Image.Image:
        return self.images.image(index)

    def label(self, index: int) -> Image.Image:
        label = self.images.label(index)
        return Image.new("L", label.size, self.classes[index]) if index in self.classes else label


@pytest.fixture(params=[False, True], ids=["labels", "all ignored"])
def frames_of_source(request: pytest.FixtureRequest, labelled: LabelledSource) -> LabelledSource:
    """The labelled frames, and the same without a label: what is left then is the target's term."""
    ignored = dict.fromkeys(range(len(labelled.frames)), 255) if request.param else {}
    return labelled._replace(frames=Relabelled(labelled.frames, ignored))


def enlarge(logits: Tensor, images: Tensor) -> Tensor:
    return functional.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over the labelled pixels, 0 without one; logits (B, K, H, W), labels (B, H, W)."""
    counted = labels != 255
    logs = logits.log_softmax(1).permute(0, 2, 3, 1)[counted]
    return -logs[torch.arange(len(logs)), labels[counted]].sum() / max(1, len(logs))


def assert_same(gradients: Sequence[Tensor], loss: Tensor, parameters: Iterator[nn.Parameter]) -> None:
    """The gradients are those of the loss, to a thousandth of their length."""
    expected = torch.autograd.grad(loss, list(parameters), retain_graph=True)
    own, theirs = (torch.cat([gradient.flatten() for gradient in each]) for each in (gradients, expected))
    assert theirs.norm() > 0
    assert (own - theirs).norm() < 1e-3 * theirs.norm()
