"""The encoder's last layer is found by running a network once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sfda_engine.models.deeplab import DeepLabV3
from sfda_engine.models.feature_layer import deepest_layer, run_once


class Net(nn.Module):
    """Encoder of 16 channels, squeezed to 1x1 beside it, decoder of 8; refuses sides under 256."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1))
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 64, 1), nn.Conv2d(64, 16, 1))
        self.decoder = nn.Conv2d(16, 8, 1)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] < 256:
            raise ValueError("too small")
        features = self.encoder(images)
        return self.head(self.decoder(features * self.squeeze(features)))


def test_the_encoder_is_found_and_the_network_left_as_it_was() -> None:
    network = Net().train()
    output, shapes, _ = run_once(network)
    assert output.shape == (1, 5, 64, 64)
    assert deepest_layer(shapes) == "encoder"
    assert network.training
    assert all(not layer._forward_hooks for layer in network.modules())


def test_deeplabs_encoder_is_its_backbones_last_stage() -> None:
    shapes = run_once(DeepLabV3(4)).shapes
    found = deepest_layer(shapes)
    assert found is not None
    assert shapes[found][1] == 2048


def test_without_maps_there_is_no_layer() -> None:
    assert deepest_layer({}) is None
    assert deepest_layer({"pooled": (1, 64, 1, 1)}) is None


def test_what_a_network_raises_is_raised() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        run_once(Broken())


def test_noise_is_the_same_each_time() -> None:
    torch.manual_seed(0)
    network = Net()
    assert torch.equal(run_once(network)[0], run_once(network)[0])
