"""On synthetic images, only what training changes is penalized: equal weights are at distance 0."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from sfda_engine.method.objective import Objective
from sfda_engine.method.steps import Networks, student_transfer_terms
from sfda_engine.models.discriminator import PatchDiscriminator
from sfda_engine.models.generator import LATENT_DIM, Generator
from sfda_engine.models.norms import batch_norm_layers
from sfda_engine.models.streetnet import StreetNet

OBJECTIVE = Objective(alpha=1.0, beta=0.5)


@pytest.fixture
def networks() -> Networks:
    """A student of the source's weights, whose statistics are another domain's."""
    torch.manual_seed(0)
    source = StreetNet(4).eval().requires_grad_(False)
    student = copy.deepcopy(source).requires_grad_(True)
    for layer in batch_norm_layers(student).values():
        assert layer.running_mean is not None
        layer.running_mean.add_(0.5)
    return Networks(source, student, Generator((32, 32), width=8), PatchDiscriminator(4, 4))


def distances(networks: Networks, objective: Objective) -> tuple[float, float]:
    latent = torch.randn(2, LATENT_DIM, generator=torch.Generator().manual_seed(1))
    terms = student_transfer_terms(networks, latent, objective)
    return terms["mae"].item(), terms["dad_ss"].item()


def test_equal_weights_are_at_distance_zero(networks: Networks) -> None:
    assert distances(networks, OBJECTIVE) == (0.0, 0.0)


@pytest.mark.parametrize("own", ["batch", "running"])
def test_with_statistics_of_its_own_the_student_would_be_penalized_for_them(networks: Networks, own: str) -> None:
    mae, dad = distances(networks, replace(OBJECTIVE, synthetic_bn=own))  # type: ignore[arg-type]
    assert min(mae, dad) > 1e-3


def test_a_weight_that_moves_is_seen(networks: Networks) -> None:
    parameter = next(layer.weight for layer in networks.student.modules() if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        parameter.mul_(1.1)
    assert min(distances(networks, OBJECTIVE)) > 0
