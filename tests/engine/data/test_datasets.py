"""Which frames a section of the configuration opens: no frame serves two purposes, no target frame has a label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfda_engine.config.schema import EvaluateConfig, SourceConfig, TargetConfig
from sfda_engine.data.classes import class_set
from sfda_engine.data.datasets import check_label_folder, open_evaluate, open_source, open_target
from sfda_engine.data.folder import FolderLabelled
from sfda_engine.data.frame_files import FrameFiles
from sfda_engine.data.images import ImageSize
from sfda_engine.data.readers import Images, LabelledImages
from sfda_engine.data.scenes.render import render_scene
from sfda_engine.errors import UserError

SIZE = ImageSize(48, 32)
NAMES = class_set("scenes").names
TARGET = TargetConfig(dataset="scenes", split="fog", size=SIZE, frames=4)
EVALUATE = EvaluateConfig(dataset="scenes", split="fog", frames=4)
SOURCE = SourceConfig(dataset="scenes", split="fog", val_split="fog", size=SIZE, frames=4)


def evaluation() -> LabelledImages:
    return open_evaluate(EVALUATE, class_names=NAMES, size=SIZE)


def frames_of(images: Images, count: int = 4) -> set[bytes]:
    return {images.image(i).tobytes() for i in range(count)}


def folder(root: Path, name: str = "a") -> Path:
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    Image.new("RGB", SIZE).save(root / "images" / f"{name}.png")
    Image.new("L", SIZE).save(root / "labels" / f"{name}.png")
    return root


def test_no_scene_serves_two_purposes() -> None:
    opened = [
        open_target(TARGET),
        evaluation(),
        open_source(SOURCE, class_names=NAMES),
        open_source(SOURCE, class_names=NAMES, validate=True),
    ]
    assert len(set.union(*(frames_of(images) for images in opened))) == 16


def test_target_scenes_hold_no_label() -> None:
    images = open_target(TARGET)
    assert not hasattr(images, "label")
    assert all(scene.label.size == 0 for scene in images.scenes)  # type: ignore[attr-defined]
    assert (len(images), images.name(3), images.image(0).size) == (4, "fog_0003", SIZE)


def test_evaluation_scenes_hold_the_label_of_their_frame() -> None:
    images = evaluation()
    scenes = [render_scene("fog", 1_000_000 + i, SIZE) for i in range(len(images))]
    for index, scene in enumerate(scenes):
        np.testing.assert_array_equal(np.asarray(images.image(index)), scene.image)
        np.testing.assert_array_equal(np.asarray(images.label(index)), scene.label)


def test_folders_and_their_splits(tmp_path: Path) -> None:
    folder(tmp_path / "dusk", "dusk")
    folder(tmp_path / "day", "day")
    root = str(tmp_path)
    target = open_target(TargetConfig(root=root, split="dusk", size=SIZE))
    labelled = open_evaluate(EvaluateConfig(root=root, split="dusk"), class_names=("road", "sky"), size=SIZE)
    source = SourceConfig(root=root, split="day", val_split="dusk")
    assert type(target) is FrameFiles
    assert type(labelled) is FolderLabelled
    trained, validated = (open_source(source, class_names=("road", "sky"), validate=flag) for flag in (False, True))
    assert [images.name(0) for images in (target, labelled, trained, validated)] == ["dusk", "dusk", "day", "dusk"]


def test_validation_folder_may_be_another_root(tmp_path: Path) -> None:
    config = SourceConfig(root=str(folder(tmp_path / "one", "one")), val_root=str(folder(tmp_path / "two", "two")))
    assert open_source(config, class_names=("road", "sky"), validate=True).name(0) == "two"


def test_only_so_many_frames(tmp_path: Path) -> None:
    root = folder(tmp_path)
    Image.new("RGB", SIZE).save(root / "images" / "b.png")
    assert len(open_target(TargetConfig(root=str(root)))) == 2
    assert len(open_target(TargetConfig(root=str(root), frames=1))) == 1


def test_errors_name_the_key_or_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"target\.root"):
        open_target(TargetConfig())
    with pytest.raises(UserError, match=r"evaluate\.root"):
        open_evaluate(EvaluateConfig(), class_names=("road", "sky"), size=SIZE)
    with pytest.raises(UserError, match=r"source\.root"):
        open_source(SourceConfig(), class_names=("road", "sky"))
    with pytest.raises(UserError, match="needs a split"):
        open_target(TargetConfig(dataset="scenes"))
    with pytest.raises(UserError, match="'night'"):
        open_target(TargetConfig(dataset="scenes", split="nigth"))
    with pytest.raises(UserError, match=r"target\.split is 'nowhere': --target\.split null"):
        open_target(TargetConfig(root=str(tmp_path), split="nowhere"))
    with pytest.raises(UserError, match="gone/nowhere"):
        open_target(TargetConfig(root=str(tmp_path / "gone"), split="nowhere"))
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match=r"target\.root .*a\.png"):
        open_target(TargetConfig(root=str(tmp_path / "a.png"), split="nowhere"))


def test_label_folder_is_checked_by_name_alone(tmp_path: Path) -> None:
    config = EvaluateConfig(root=str(tmp_path), split="dusk")
    (tmp_path / "dusk").mkdir()
    with pytest.raises(UserError, match=r"label folder .*dusk/labels"):
        check_label_folder(config, NAMES)
    folder(tmp_path / "dusk")
    (tmp_path / "dusk" / "labels" / "a.png").write_text("opening this would fail")
    check_label_folder(config, NAMES)
    Image.new("RGB", SIZE).save(tmp_path / "dusk" / "images" / "b.png")
    with pytest.raises(UserError, match=r"1 of 2 .*dusk/labels, .*b\.png"):
        check_label_folder(config, NAMES)
    check_label_folder(EvaluateConfig(root=str(tmp_path), split="dusk", frames=1), NAMES)
    check_label_folder(EVALUATE, NAMES)
    with pytest.raises(UserError, match="needs a split"):
        check_label_folder(EvaluateConfig(dataset="scenes"), NAMES)
