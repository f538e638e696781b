"""From configuration to network and run folder: what is refused, what is filled in, what is written where."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sfda_engine.config.schema import Config, ModelConfig, NormalizationConfig, RunConfig
from sfda_engine.data.classes import CLASS_SETS
from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.models import build_segmenter
from sfda_engine.models.preprocess import Normalization
from sfda_engine.models.segmenter import check_forward
from sfda_engine.models.weights import WeightsInfo, save_weights
from sfda_engine.pipelines.inputs import run_folder_of
from sfda_engine.pipelines.networks import load_segmenter

OWN = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CAFFE = NormalizationConfig(mean=(104.0, 117.0, 123.0), std=(1.0, 1.0, 1.0), channel_order="bgr", value_range=255.0)
SCENES = CLASS_SETS["scenes"]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file that describes itself: streetnet, the nine classes of the scenes, a normalization of its own."""
    path = tmp_path_factory.mktemp("own") / "own.safetensors"
    info = WeightsInfo(
        arch="streetnet",
        num_classes=9,
        class_names=SCENES.names,
        palette=SCENES.palette,
        normalization=OWN,
    )
    save_weights(path, build_segmenter("streetnet", 9), info)
    return str(path)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A state dict that says nothing of itself."""
    path = tmp_path_factory.mktemp("foreign") / "foreign.safetensors"
    save_file(build_segmenter("streetnet", 9).state_dict(), path)
    return str(path)


def test_own_weights_need_no_other_word(own: str, caplog: pytest.LogCaptureFixture) -> None:
    model, info = load_segmenter(ModelConfig(weights=own))
    assert (info.arch, info.class_names, info.palette) == ("streetnet", SCENES.names, SCENES.palette)
    assert info.normalization == OWN
    assert not any(part.training for part in model.modules())  # a pass in training mode would write BN statistics
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape[1] == 9
    assert caplog.text == ""


def test_own_weights_may_be_stated_again(own: str) -> None:
    stated = ModelConfig(
        weights=own,
        arch="streetnet",
        num_classes=9,
        classes="scenes",
        normalization=NormalizationConfig(**dataclasses.asdict(OWN)),
    )
    assert load_segmenter(stated)[1] == load_segmenter(ModelConfig(weights=own))[1]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"arch": "deeplabv3_resnet50"}, r"model\.arch is deeplabv3_resnet50.* streetnet"),
        ({"num_classes": 8}, r"model\.num_classes is 8.* 9"),
        ({"classes": "camvid"}, r"camvid has 11 .* 9"),
        ({"classes": "camvit"}, r"'camvid'"),
        ({"normalization": CAFFE}, r"model\.normalization .*104.*0\.5"),
        ({"feature_layer": "low"}, r"model\.feature_layer is low"),
        ({"weights": None}, r"--model\.weights"),
        ({"weights": "/nowhere/a.safetensors"}, r"no file '/nowhere/a\.safetensors'"),
    ],
)
def test_contradiction_is_refused(stated: dict, message: str, own: str) -> None:
    with pytest.raises(UserError, match=message):
        load_segmenter(ModelConfig(**{"weights": own} | stated))


def test_foreign_weights_take_classes_and_normalization_from_the_configuration(foreign: str) -> None:
    _, info = load_segmenter(ModelConfig(weights=foreign, arch="streetnet", classes="scenes", normalization=CAFFE))
    assert (info.num_classes, info.class_names, info.palette) == (9, SCENES.names, SCENES.palette)
    assert info.normalization == Normalization((104.0, 117.0, 123.0), (1.0, 1.0, 1.0), "bgr", 255.0)


def test_foreign_weights_without_normalization_get_imagenets_and_a_warning(
    foreign: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _, info = load_segmenter(ModelConfig(weights=foreign, arch="streetnet", num_classes=9))
    assert info.normalization == Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert info.class_names == tuple(f"class_{i}" for i in range(9))
    assert len(set(info.palette)) == 9
    assert "model.normalization" in caplog.text


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"classes": "scenes"}, r"--model\.arch "),
        ({"arch": "streetnet", "classes": "camvid"}, r" 9 .* 11"),
        ({"arch": "streetnet", "classes": "scenes", "num_classes": 4}, r"9 classes"),
    ],
)
def test_foreign_weights_that_are_not_enough_or_do_not_fit(stated: dict, message: str, foreign: str) -> None:
    with pytest.raises(UserError, match=message):
        load_segmenter(ModelConfig(weights=foreign, **stated))


def test_forward_is_tried_at_the_size_of_the_run() -> None:
    class Picky(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.shape[-2:] == (24, 40) or not self.training
            if images.shape[-1] % 16:
                raise RuntimeError("sizes must match\nand more")
            return images

    check_forward(Picky(), ImageSize(32, 24))
    with pytest.raises(UserError, match=r"40x24 \(sizes must match\)"):
        check_forward(Picky(), ImageSize(40, 24))


def named(output: Path | None, resume: bool = False) -> Config:
    return Config(run=RunConfig(output=None if output is None else str(output), resume=resume), name="demo")


def test_absent_or_empty_folder_is_taken(tmp_path: Path) -> None:
    for path in (tmp_path / "a" / "b", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert run_folder_of(named(path)) == path
        assert path.is_dir()


def test_unnamed_folder_says_configuration_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = run_folder_of(named(None))
    assert folder.is_dir()
    assert folder.parent == Path("runs")
    assert folder.name.startswith("demo-2")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run_folder_of(named(Path("~/run"))) == tmp_path / "run"


def test_folder_with_something_in_it_is_only_resumed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"--run\.resume true"):
        run_folder_of(named(tmp_path))
    assert run_folder_of(named(tmp_path, resume=True)) == tmp_path
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_resume_needs_a_name() -> None:
    with pytest.raises(UserError, match=r"--run\.output"):
        run_folder_of(named(None, resume=True))


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("inside", ["", "below/it"])
def test_a_file_in_the_way(inside: str, resume: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"run\.output .*file"):
        run_folder_of(named(tmp_path / "file" / inside, resume))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("mode", [0o000, 0o555])
@pytest.mark.parametrize("inside", ["", "run"])
@pytest.mark.parametrize("resume", [False, True])
def test_place_that_is_not_the_users(mode: int, inside: str, resume: bool, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    for folder in (locked, *list(tmp_path.parents)[:2], tmp_path):
        folder.chmod(mode if folder == locked else 0o755)
    if (user := os.getuid()) == 0:
        os.setresuid(65534, 65534, 0)  # root may write anywhere
    try:
        with pytest.raises(UserError, match=r"run\.output .*locked.* place"):
            run_folder_of(named(locked / inside, resume))
    finally:
        os.setresuid(user, user, user)
        locked.chmod(0o755)
    assert list(locked.iterdir()) == []
