"""Labelled target frames: what is kept, what is written and read, and that each frame gets its own label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sfda_engine.data.datasets import SceneImages
from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.method.pseudo_labels import PseudoLabelled, label_target, load_labels, save_labels
from sfda_engine.method.teacher import calibrate, label_frames, make_teacher
from sfda_engine.models.preprocess import Normalization
from sfda_engine.models.segmenter import SegmenterOutput
from sfda_engine.views.view import View

VIEWS = [View("none", ImageSize(32, 24), 0.5), View("gamma", ImageSize(48, 36), 1.0)]
FRAMES, SIZE = 11, (96, 72)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, images: Tensor) -> SegmenterOutput:
        features = self.features(images)
        return SegmenterOutput(4 * self.head(features), features)


@pytest.fixture(scope="module")
def target() -> SceneImages:
    return SceneImages("night", purpose="target", size=SIZE, frames=FRAMES)


def test_each_frame_gets_its_own_label(target: SceneImages) -> None:
    source = Toy().eval()
    labelled = label_target(source, Normalization(), target, VIEWS, progress=False)
    assert len(labelled) == len(labelled.encoded) == len(labelled.sizes) == FRAMES
    teacher = make_teacher(source, Normalization(), target, VIEWS)
    expected = label_frames(teacher, calibrate(teacher, target), target, range(FRAMES))
    for index, label in enumerate(expected):
        assert labelled.image(index).size == labelled.label(index).size == SIZE
        wanted = Image.fromarray(label.numpy()).resize(SIZE, Image.Resampling.NEAREST)
        assert (np.array(labelled.label(index)) == np.array(wanted)).mean() > 0.999


def test_labels_survive_the_file_to_the_bit(target: SceneImages, tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (FRAMES, 5, 7), dtype=np.uint8)
    labelled = PseudoLabelled(target, [Image.fromarray(one) for one in drawn], [SIZE] * FRAMES)
    save_labels(tmp_path / "labels.zip", labelled)
    again = load_labels(tmp_path / "labels.zip", target)
    assert again.sizes == labelled.sizes
    for index in range(FRAMES):
        assert np.array_equal(np.array(again.label(index)), np.array(labelled.label(index)))


@pytest.mark.parametrize("kept", [0, 40, 200])
def test_a_damaged_file_is_the_users_to_delete(kept: int, target: SceneImages, tmp_path: Path) -> None:
    labels = [Image.new("L", (5, 7))] * FRAMES
    path = tmp_path / "labels.zip"
    save_labels(path, PseudoLabelled(target, labels, [SIZE] * FRAMES))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"labels\.zip"):
        load_labels(path, target)


def test_labels_of_other_frames_are_refused(target: SceneImages, tmp_path: Path) -> None:
    fewer = SceneImages("night", purpose="target", size=SIZE, frames=3)
    path = tmp_path / "labels.zip"
    save_labels(path, PseudoLabelled(fewer, [Image.new("L", (5, 7))] * 3, [SIZE] * 3))
    with pytest.raises(UserError, match=r"labels\.zip"):
        load_labels(path, target)


def test_a_label_comes_at_its_frames_own_size(target: SceneImages) -> None:
    small = Image.fromarray(np.array([[0, 1], [2, 255]], dtype=np.uint8))
    label = np.array(PseudoLabelled(target, [small] * FRAMES, [(48, 36)] * FRAMES).label(3))
    assert label.shape == (36, 48)
    assert set(np.unique(label)) == {0, 1, 2, 255}
    assert label[0, 0] == 0
    assert label[-1, -1] == 255
