"""Four tiny networks, target frames, latents and plain SGD: what one adaptation step needs."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from sfda_engine.distributed.optimizer_step import Update
from sfda_engine.method.steps import Networks, Updates
from sfda_engine.models.discriminator import PatchDiscriminator
from sfda_engine.models.generator import Generator
from sfda_engine.models.norms import batch_norm_statistics, set_momentum
from sfda_engine.models.segmenter import SegmenterOutput

BATCH, CLASSES, GRID, LATENT = 4, 3, 2, 256
TARGET, SYNTHETIC = (24, 32), (16, 20)


class Toy(nn.Module):
    """The smallest segmenter that keeps the contract: features at stride 4, logits of them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU()),
            *(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
        )
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, images: Tensor) -> SegmenterOutput:
        features = self.encoder(images)
        return SegmenterOutput(self.head(features), features)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield Accelerator(cpu=True, mixed_precision="no")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def networks() -> Networks:
    """A source with statistics of its own, a student that has moved away from it."""
    torch.manual_seed(0)
    source = Toy().eval()
    with torch.no_grad(), batch_norm_statistics(source, "update"):
        for _ in range(20):
            source(torch.randn(BATCH, 3, *TARGET))
    student = copy.deepcopy(source)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    set_momentum(student, 0.02)
    generator = Generator(SYNTHETIC, width=8)
    discriminator = PatchDiscriminator(CLASSES, GRID**2, 16)
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.mul_(3)  # one that has an opinion: an initial one hardly tells patches apart
    return Networks(source.requires_grad_(False), student, generator, discriminator)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(BATCH, 3, *TARGET, generator=torch.Generator().manual_seed(1)) * 0.7 + 0.5


@pytest.fixture
def updates(accelerator: Accelerator, networks: Networks) -> Updates:
    """Plain SGD, the gradient clipped to norm 1: a step small enough that the first order decides the sign."""

    def update(module: nn.Module) -> Update:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
        return Update(accelerator, accelerator.prepare(optimizer), clip_grad_norm=1.0)

    return Updates(update(networks.student), update(networks.generator), update(networks.discriminator))


@pytest.fixture
def latents() -> list[Tensor]:
    return list(torch.randn(4, BATCH, LATENT, generator=torch.Generator().manual_seed(2)))
