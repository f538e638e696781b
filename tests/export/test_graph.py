"""The deployed graph in torch: outputs against torch's own softmax, and what becomes of logits that are not finite."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfda_engine.models.preprocess import Normalization, Preprocess
from sfda_engine.models.segmenter import SegmenterOutput
from sfda_export.graph import OUTPUTS, DeployGraph, read_diagnostics

BGR = Normalization(mean=(103.5, 116.3, 123.7), std=(57.4, 57.1, 58.4), channel_order="bgr", value_range=255.0)


class Stub(nn.Module):
    """Logits at half size; a frame whose first pixel is white gets `poison` as one of its logits."""

    def __init__(self, poison: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 3, 2, 1)
        self.poison = poison

    def forward(self, images: Tensor) -> SegmenterOutput:
        logits = 4 * self.conv(images)
        white = images[:, 0, 0, 0] > 2.0
        logits[white, 2, 1, 1] = self.poison
        return SegmenterOutput(logits, logits)


def some_frames() -> Tensor:
    return torch.randint(0, 200, (3, 10, 14, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("normalization", [Normalization(), BGR])
@pytest.mark.parametrize("exposure", ["none", "gamma"])
def test_outputs_against_torchs_own_softmax(normalization: Normalization, exposure: str) -> None:
    frames, network = some_frames(), Stub()
    images = Preprocess(normalization, exposure)(frames.permute(0, 3, 1, 2) / 255)
    logits = F.interpolate(network(images).logits, (10, 14), mode="bilinear").double()
    p = logits.softmax(1)
    entropy = torch.special.entr(p).sum(1) / torch.log(torch.tensor(5.0, dtype=torch.float64))
    outputs = {
        graph: dict(zip(names, DeployGraph(network, normalization, exposure, graph)(frames), strict=True))
        for graph, names in OUTPUTS.items()
    }
    for found in outputs.values():
        assert found["labels"].dtype == torch.uint8
        assert torch.equal(found["labels"].long(), logits.argmax(1))
    diagnostics = outputs["diagnostics"]
    assert (diagnostics["confidence"] - 255 * p.amax(1)).abs().max() <= 0.501
    assert (diagnostics["entropy"] - 255 * entropy).abs().max() <= 0.501
    torch.testing.assert_close(outputs["logits"]["logits"].double(), logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_a_frame_that_is_not_finite_is_ignored_and_its_neighbors_are_not(poison: float) -> None:
    frames = some_frames()
    frames[1, 0, 0] = 255
    healthy = DeployGraph(Stub(), Normalization(), "none", "diagnostics")(frames)
    labels, confidence, entropy = DeployGraph(Stub(poison), Normalization(), "none", "diagnostics")(frames)
    assert labels[1].unique().tolist() == [255]
    assert confidence[1].unique().tolist() == [0]
    assert entropy[1].unique().tolist() == [255]
    for found, expected in zip((labels, confidence, entropy), healthy, strict=True):
        assert torch.equal(found[[0, 2]], expected[[0, 2]])
    assert torch.equal(DeployGraph(Stub(poison), Normalization(), "none", "labels")(frames)[0], labels)


def test_extremes_of_the_levels() -> None:
    flat, sure = torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    sure[:, 1] = 1e4
    even, certain = read_diagnostics(flat, flat), read_diagnostics(sure, sure)
    assert (even.confidence.unique().item(), even.entropy.unique().item()) == (64, 255)
    assert (certain.labels.unique().item(), certain.confidence.unique().item(), certain.entropy.unique().item()) == (
        1,
        255,
        0,
    )
