"""Pseudo-labels: shares that the alignment reaches, thresholds, what the teacher averages, what stays untouched."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from sfda_engine.data.datasets import SceneImages
from sfda_engine.method.teacher import PseudoLabelled, align_shares, calibrate, label_target, make_teacher, shifted
from sfda_engine.models.norms import batch_norm_layers
from sfda_engine.models.preprocess import Normalization, Preprocess
from sfda_engine.models.segmenter import SegmenterOutput

SIZE, SCALES, CLASSES = (32, 24), (1.0, 1.5), 4
DEVICE = torch.device("cpu")


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, CLASSES, 1)

    def forward(self, images: Tensor) -> SegmenterOutput:
        features = self.features(images)
        return SegmenterOutput(4 * self.head(features), features)


@pytest.fixture
def student() -> nn.Module:
    return Toy().eval()


@pytest.fixture(scope="module")
def target() -> SceneImages:
    return SceneImages("night", purpose="target", size=(48, 36), frames=5)


@pytest.fixture
def preprocess() -> Preprocess:
    return Preprocess(Normalization())


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


def test_the_teacher_is_the_mean_over_scales_and_mirrorings(
    student: nn.Module, target: SceneImages, preprocess: Preprocess
) -> None:
    teacher = make_teacher(student, preprocess, target, SIZE, SCALES, 2, DEVICE)
    assert list(teacher.networks) == [(32, 24), (48, 36)]
    frame = target.image(0)
    views = []
    for (width, height), network in teacher.networks.items():
        resized = frame.resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].float() / 255
        for mirrored in (False, True):
            seen = preprocess(pixels.flip(-1) if mirrored else pixels)
            with torch.no_grad():
                logits = network(seen).logits
            logits = logits.flip(-1) if mirrored else logits
            views.append(F.interpolate(logits, (36, 48), mode="bilinear", align_corners=False).softmax(1))
    torch.testing.assert_close(teacher.probabilities([frame]), sum(views) / 4)


def test_scales_have_statistics_of_their_own_and_the_student_keeps_its(
    student: nn.Module, target: SceneImages, preprocess: Preprocess
) -> None:
    before = copy.deepcopy(student.state_dict())
    teacher = make_teacher(student, preprocess, target, SIZE, SCALES, 2, DEVICE)
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name])
    plain, large = ([layer.running_mean for layer in batch_norm_layers(n).values()] for n in teacher.networks.values())
    assert torch.equal(plain[0], before["features.1.running_mean"])
    images = torch.stack(
        [
            torch.from_numpy(np.array(target.image(i).resize((48, 36), Image.Resampling.BILINEAR))).permute(2, 0, 1)
            for i in range(5)
        ]
    )
    with torch.no_grad():
        seen = teacher.networks[(48, 36)].features[0](preprocess(images.float() / 255))
    # a cumulative average over batches of 2, 2 and 1
    expected = torch.stack([part.mean((0, 2, 3)) for part in seen.split(2)]).mean(0)
    torch.testing.assert_close(large[0], expected)


@pytest.mark.parametrize("drop", [0.0, 0.3])
def test_labels_keep_the_confident_share_of_each_class(
    student: nn.Module, target: SceneImages, preprocess: Preprocess, drop: float
) -> None:
    labelled = label(student, student, preprocess, target, drop=drop)
    assert len(labelled) == len(target)
    teacher = make_teacher(student, preprocess, target, SIZE, SCALES, 2, DEVICE)
    offsets, thresholds = calibrate(teacher, target, drop, 2)
    for index in range(len(target)):
        confidence, expected = shifted(teacher.probabilities([target.image(index)]), offsets).max(1)
        expected[confidence < thresholds[expected]] = 255
        stored = torch.from_numpy(np.array(labelled.labels[index]))
        # batches of one and of two round differently where a pixel is at a tie or at the threshold
        assert (stored != expected[0]).float().mean() < 0.01
    stored = torch.stack([torch.from_numpy(np.array(label)) for label in labelled.labels])
    assert (stored == 255).float().mean().item() == pytest.approx(drop, abs=0.04)


def test_the_other_scales_keep_the_sources_share_of_statistics(
    student: nn.Module, target: SceneImages, preprocess: Preprocess
) -> None:
    source = copy.deepcopy(student)
    with torch.no_grad():
        for layer in batch_norm_layers(source).values():
            layer.running_mean.copy_(torch.randn(8) * 3)
    expected = make_teacher(student, preprocess, target, SIZE, SCALES, 2, DEVICE)
    (large,) = (network for size, network in expected.networks.items() if size != SIZE)
    for own, origin in zip(batch_norm_layers(large).values(), batch_norm_layers(source).values(), strict=True):
        own.running_mean.copy_(0.6 * own.running_mean + 0.4 * origin.running_mean)
        own.running_var.copy_(0.6 * own.running_var + 0.4 * origin.running_var)
    offsets, _ = calibrate(expected, target, 0.0, 2)
    labelled = label(student, source, preprocess, target, drop=0.0, source_share=0.4)
    unmixed = label(student, source, preprocess, target, drop=0.0)
    differing = 0
    for index in range(len(target)):
        wanted = shifted(expected.probabilities([target.image(index)]), offsets).argmax(1)[0]
        assert (torch.from_numpy(np.array(labelled.labels[index])) != wanted).float().mean() < 0.01
        differing += int((np.array(labelled.labels[index]) != np.array(unmixed.labels[index])).sum())
    assert differing > 0


def label(
    student: nn.Module,
    source: nn.Module,
    preprocess: Preprocess,
    target: SceneImages,
    *,
    drop: float,
    source_share: float = 0.0,
) -> PseudoLabelled:
    return label_target(
        student,
        preprocess,
        target,
        size=SIZE,
        scales=SCALES,
        drop=drop,
        batch_size=2,
        device=DEVICE,
        source=source,
        source_share=source_share,
        progress=False,
    )


def test_a_label_comes_at_its_frames_own_size(target: SceneImages) -> None:
    small = Image.fromarray(np.array([[0, 1], [2, 255]], dtype=np.uint8))
    labelled = PseudoLabelled(target, [small] * 5, [(48, 36)] * 5)
    label = labelled.label(3)
    assert label.size == labelled.image(3).size == (48, 36)
    assert set(np.unique(np.array(label))) == {0, 1, 2, 255}
    assert np.array(label)[0, 0] == 0
    assert np.array(label)[-1, -1] == 255
