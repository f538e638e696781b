"""SegNet's phase unpooling against torch's own pooling by indices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfda_engine.models.segnet import SegNet
from sfda_engine.models.streetnet import StreetNet
from sfda_export.unpool import PhaseSegNet, deployable, pool, size_multiple, unpool


def pictures() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 12, 20, generator=generator)
    return {"distinct": x, "ties of zero": x.relu(), "many ties": x.relu().round(), "all equal": torch.ones_like(x)}


@pytest.mark.parametrize("kind", pictures())
def test_phases_are_torchs_own_unpooling_bit_for_bit(kind: str) -> None:
    x = pictures()[kind]
    values = torch.randn(2, 5, 6, 10)
    expected_maximum, indices = F.max_pool2d(x, 2, return_indices=True)
    maximum, winners = pool(x)
    assert torch.equal(maximum, expected_maximum)
    assert torch.equal(sum(mask.int() for mask in winners), torch.ones(2, 5, 6, 10, dtype=torch.int32))
    assert torch.equal(unpool(values, winners), F.max_unpool2d(values, indices, (2, 2)))


@torch.no_grad()
def test_segnet_in_phase_form_is_the_same_network() -> None:
    torch.manual_seed(0)
    native = SegNet(3).eval()
    phase = deployable(native)
    assert isinstance(phase, PhaseSegNet)
    assert phase.state_dict().keys() == native.state_dict().keys()
    images = torch.rand(1, 3, 32, 64)
    expected, found = native(images), phase(images)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.features, expected.features)


def test_only_segnet_is_swapped() -> None:
    network = StreetNet(3)
    assert deployable(network) is network
    assert (size_multiple(network), size_multiple(SegNet(2))) == (1, 32)
