"""The teacher: what it averages, with which statistics, what its labels keep, what stays untouched."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from sfda_engine.data.datasets import SceneImages
from sfda_engine.data.images import ImageSize
from sfda_engine.method import teacher as module
from sfda_engine.method.teacher import (
    Calibration,
    Teacher,
    align_shares,
    calibrate,
    label_frames,
    make_teacher,
    shifted,
)
from sfda_engine.models.norms import batch_norm_layers
from sfda_engine.models.preprocess import Normalization, Preprocess
from sfda_engine.models.segmenter import SegmenterOutput
from sfda_engine.views.view import View

CLASSES = 4
START = View("gamma", ImageSize(32, 24), 0.4)
VIEWS = [START, View("gamma", ImageSize(48, 36), 0.7), View("none", ImageSize(48, 36), 1.0)]
FRAMES = 5


class Toy(nn.Module):
    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU())
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, images: Tensor) -> SegmenterOutput:
        features = self.features(images)
        return SegmenterOutput(4 * self.head(features), features)


@pytest.fixture
def source() -> nn.Module:
    return Toy().eval()


@pytest.fixture(scope="module")
def target() -> SceneImages:
    return SceneImages("night", purpose="target", size=(96, 72), frames=FRAMES)


@pytest.fixture
def teacher(source: nn.Module, target: SceneImages) -> Teacher:
    return make_teacher(source, Normalization(), target, VIEWS)


def pixels(frame: Image.Image, view: View) -> Tensor:
    resized = frame.resize(view.size, Image.Resampling.BILINEAR)
    image = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 255
    return Preprocess(Normalization(), view.exposure)(image)


def network_under(view: View, target: SceneImages) -> nn.Module:
    """The toy with its statistics written by hand: those of its first convolution's outputs over all frames."""
    network = Toy().eval()
    layer = network.features[1]
    with torch.no_grad():
        seen = network.features[0](torch.cat([pixels(target.image(index), view) for index in range(FRAMES)]))
        layer.running_mean.copy_((1 - view.share) * seen.mean((0, 2, 3)) + view.share * layer.running_mean)
        variance = seen.var((0, 2, 3), correction=0)
        layer.running_var.copy_((1 - view.share) * variance + view.share * layer.running_var)
    return network


@torch.no_grad()
def views_of(frame: Image.Image, target: SceneImages) -> Tensor:
    """Probabilities (2 V, 1, K, H, W) of a frame under each view, and of its mirror image mirrored back."""
    maps = []
    for view, mirrored in itertools.product(VIEWS, (False, True)):
        image = pixels(frame, view)
        logits = network_under(view, target)(image.flip(-1) if mirrored else image).logits
        logits = logits.flip(-1) if mirrored else logits
        maps.append(F.interpolate(logits, (36, 48), mode="bilinear", align_corners=False).softmax(1))
    return torch.stack(maps)


def test_the_teacher_is_the_mean_over_views_and_mirrorings(teacher: Teacher, target: SceneImages) -> None:
    assert teacher.size == (48, 36)
    mean, won = teacher.look([target.image(0), target.image(3)])
    by_view = [views_of(target.image(index), target) for index in (0, 3)]
    torch.testing.assert_close(mean, torch.cat([maps.mean(0) for maps in by_view]), atol=1e-5, rtol=1e-4)
    expected = sum(maps.argmax(2).flatten().bincount(minlength=CLASSES) for maps in by_view)
    assert (won - expected).abs().sum() < 0.01 * won.sum()
    assert won.sum() == 2 * 2 * len(VIEWS) * 36 * 48


def test_the_source_stays_as_it_is(source: nn.Module, target: SceneImages) -> None:
    before = copy.deepcopy(source.state_dict())
    teacher = make_teacher(source, Normalization(), target, VIEWS)
    calibrate(teacher, target)
    for name, value in source.state_dict().items():
        assert torch.equal(value, before[name])
    assert not source.training
    assert all(not layer.training for layer in batch_norm_layers(source).values())


def test_no_pass_is_spent_on_statistics_that_no_view_uses(source: nn.Module, target: SceneImages) -> None:
    untouched = [View("none", ImageSize(32, 24), 1.0), View("gamma", ImageSize(48, 36), 1.0)]
    assert make_teacher(source, Normalization(), target, untouched).statistics == {}
    teacher = make_teacher(source, Normalization(), target, [*VIEWS, View("gamma", ImageSize(48, 36), 0.3)])
    assert set(teacher.statistics) == {("gamma", (32, 24)), ("gamma", (48, 36))}


def test_a_network_without_batch_norm_is_taught_as_well(target: SceneImages) -> None:
    network = Toy(norm=False).eval()
    teacher = make_teacher(
        network, Normalization(), target, [View("none", ImageSize(32, 24), share) for share in (0.2, 1.0)]
    )
    mean, _ = teacher.look([target.image(1)])
    alone, _ = make_teacher(network, Normalization(), target, [View("none", ImageSize(32, 24), 1.0)]).look(
        [target.image(1)]
    )
    torch.testing.assert_close(mean, alone)


@pytest.mark.parametrize("kept_bytes", [0, 2 * CLASSES * 36 * 48 * 2, 2**28])
@pytest.mark.parametrize("drop", [0.0, 0.3])
def test_labels_keep_the_sure_share_of_each_class(
    teacher: Teacher, target: SceneImages, drop: float, kept_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", kept_bytes)
    calibration = calibrate(teacher, target, drop)
    assert len(calibration.kept) == min(FRAMES, kept_bytes // (2 * CLASSES * 36 * 48))
    labels = list(label_frames(teacher, calibration, target, range(FRAMES)))
    probabilities = torch.cat([views_of(target.image(index), target).mean(0) for index in range(FRAMES)])
    confidence, expected = shifted(probabilities, calibration.offsets).max(1)
    found = torch.stack(labels)
    assert found.dtype == torch.uint8
    assert found.shape == (FRAMES, 36, 48)
    labelled = found != 255
    assert (found[labelled] == expected[labelled]).double().mean() > 0.99  # float16, and ties at the threshold
    assert labelled.double().mean().item() == pytest.approx(1 - drop, abs=0.02)
    for index in range(CLASSES):
        if (expected == index).sum() > 200:
            own = expected == index
            assert labelled[own].double().mean().item() == pytest.approx(1 - drop, abs=0.05)
            if drop:
                assert confidence[own & labelled].min() > confidence[own & ~labelled].max() - 2e-3


def test_labels_cover_the_shares_of_the_views(teacher: Teacher, target: SceneImages) -> None:
    labels = torch.stack(list(label_frames(teacher, calibrate(teacher, target, 0.0), target, range(FRAMES))))
    won = teacher.look([target.image(index) for index in range(FRAMES)])[1]
    for index in range(CLASSES):
        share = (labels == index).double().mean().item()
        assert share == pytest.approx((won[index] / won.sum()).item(), abs=0.02)


def test_any_order_and_part_of_the_frames_gives_the_same_labels(teacher: Teacher, target: SceneImages) -> None:
    calibration = Calibration(torch.zeros(CLASSES), torch.zeros(CLASSES), {})
    whole = list(label_frames(teacher, calibration, target, range(FRAMES)))
    for index, label in zip((4, 1), label_frames(teacher, calibration, target, (4, 1)), strict=True):
        assert (label == whole[index]).double().mean() > 0.999


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(0, 999))
def test_alignment_reaches_the_shares(classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = (2 * torch.randn(6000, classes, generator=generator)).softmax(1)
    share = (torch.rand(classes, generator=generator) + 0.1).softmax(0)
    offsets = align_shares(probabilities, share)
    won = shifted(probabilities, offsets).argmax(1).bincount(minlength=classes) / 6000
    assert (won - share).abs().max() < 0.01


def test_shares_that_hold_already_ask_for_no_offset() -> None:
    probabilities = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    share = probabilities.argmax(1).bincount(minlength=3) / 500
    assert align_shares(probabilities, share).abs().max() < 1e-4
