"""Published data sets in their real layout: which frames a split holds, what labels say, what stops with a hint."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from sfda_engine.config.schema import Dataset, EvaluateConfig, SourceConfig, TargetConfig
from sfda_engine.data.classes import class_set, generic_classes
from sfda_engine.data.datasets import LAYOUTS, check_label_folder, open_evaluate, open_source, open_target
from sfda_engine.data.frame_files import FrameFiles, PairedFiles
from sfda_engine.data.readers import LabelledImages
from sfda_engine.data.scenes.render import Scene
from sfda_engine.errors import UserError
from tests.engine.data.fabricate import BUILDERS, SIZE, fabricate, save

ROOT = Path(__file__).parents[4]
SCENE_NAMES = class_set("scenes").names
NINETEEN, CAMVID = class_set("cityscapes").names, class_set("camvid").names
# What the data sets call the scenes' classes
AS_CITYSCAPES = {"sign": "traffic sign"}
AS_CAMVID = {"vegetation": "tree", "person": "pedestrian"}

# kind of tree: target split and its number of frames, labelled split and its number of frames
SPLITS = {
    "cityscapes": ("train", 4, "val", 2),
    "gta5": (None, 8, "all", 6),
    "synthia": (None, 4, "val", 2),
    "crosscity": ("Rio", 2, "Rio", 2),
    "camvid": ("train", 2, "test", 2),
    "camvid_original": ("train", 2, "test", 2),
    "bdd100k": ("test", 2, "val", 2),
    "bdd100k_old": ("train", 2, "val", 2),
    "acdc": ("train", 8, "night/val", 2),
    "dark_zurich": ("train/night", 2, "val/night", 2),
    "idd": ("train", 2, "val", 2),
}
Trees = dict[str, tuple[Path, dict[Path, Scene]]]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    """Every miniature data set: its root, and the scene behind each frame."""
    roots = {kind: tmp_path_factory.mktemp(kind) for kind in BUILDERS}
    return {kind: (root, fabricate(kind, root)) for kind, root in roots.items()}


def dataset(kind: str) -> str:
    return kind.removesuffix("_original").removesuffix("_old")


def names_of(kind: str) -> tuple[str, ...]:
    return CAMVID if "camvid" in kind else NINETEEN


def evaluation(kind: str, root: Path, names: tuple[str, ...], split: str | None = None) -> LabelledImages:
    config = EvaluateConfig(dataset=dataset(kind), root=str(root), split=split or SPLITS[kind][2])
    return open_evaluate(config, class_names=names, size=SIZE)


def expected(scene: Scene, kind: str, names: tuple[str, ...]) -> np.ndarray:
    """The scene's label in the train ids of a model with classes `names`."""
    alias = AS_CAMVID if "camvid" in kind else AS_CITYSCAPES
    annotated = class_set("cityscapes13").names if kind == "crosscity" else names
    table = np.full(256, 255, np.uint8)
    for i, name in enumerate(SCENE_NAMES):
        if alias.get(name, name) in names and alias.get(name, name) in annotated:
            table[i] = names.index(alias.get(name, name))
    return table[scene.label]


def test_every_data_set_has_a_name_in_the_config_and_is_fabricated() -> None:
    assert set(get_args(Dataset)) == {"folder", "scenes", *LAYOUTS}
    assert {dataset(kind) for kind in BUILDERS} == set(LAYOUTS)
    assert all(key == layout.name for key, layout in LAYOUTS.items())


@pytest.mark.parametrize("kind", BUILDERS)
def test_target_has_the_frames_of_its_split_and_no_label(kind: str, trees: Trees) -> None:
    root, scenes = trees[kind]
    split, count, _, _ = SPLITS[kind]
    images = open_target(TargetConfig(dataset=dataset(kind), root=str(root), split=split))
    assert type(images) is FrameFiles
    assert set(vars(images)) == {"paths"}
    assert not hasattr(images, "label")
    assert len(images) == count
    assert images.paths == sorted(images.paths)
    for i, path in enumerate(images.paths):
        assert images.name(i) == path.stem
        if path.suffix == ".png":
            np.testing.assert_array_equal(np.asarray(images.image(i)), scenes[path].image)
    assert len(open_target(TargetConfig(dataset=dataset(kind), root=str(root), split=split, frames=1))) == 1


@pytest.mark.parametrize("kind", BUILDERS)
def test_labels_are_the_train_ids_of_their_frame(kind: str, trees: Trees) -> None:
    root, scenes = trees[kind]
    names = names_of(kind)
    images = evaluation(kind, root, names)
    assert isinstance(images, PairedFiles)
    assert len(images) == SPLITS[kind][3]
    for i, path in enumerate(images.paths):
        label = np.asarray(images.label(i))
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, expected(scenes[path], kind, names))
        assert (label == 255).any()  # the fabricated bonnet


@pytest.mark.parametrize("kind", ["cityscapes", "gta5", "synthia", "crosscity"])
@pytest.mark.parametrize("subset", ["synthia16", "cityscapes13"])
def test_models_of_fewer_classes_have_the_others_ignored(kind: str, subset: str, trees: Trees) -> None:
    root, scenes = trees[kind]
    names = class_set(subset).names
    images = evaluation(kind, root, names)
    for i, path in enumerate(images.paths):
        np.testing.assert_array_equal(np.asarray(images.label(i)), expected(scenes[path], kind, names))


def test_weights_that_name_no_class_take_the_data_set_s(trees: Trees) -> None:
    for kind, counts in (("cityscapes", (19,)), ("synthia", (16, 19)), ("crosscity", (13, 19)), ("camvid", (11,))):
        root, scenes = trees[kind]
        for count in counts:
            named = {19: NINETEEN, 16: class_set("synthia16").names, 13: class_set("cityscapes13").names, 11: CAMVID}
            images = evaluation(kind, root, generic_classes(count).names)
            known = evaluation(kind, root, named[count])
            np.testing.assert_array_equal(np.asarray(images.label(0)), np.asarray(known.label(0)))
            assert len(scenes) >= len(images)


def test_source_and_validation_come_from_their_splits(trees: Trees) -> None:
    root, _ = trees["gta5"]
    config = SourceConfig(dataset="gta5", root=str(root), split="train", val_split="val")
    trained = open_source(config, class_names=NINETEEN)
    validated = open_source(config, class_names=NINETEEN, validate=True)
    stems = [images.name(i) for images in (trained, validated) for i in range(len(images))]
    # 02158 (no label) and 15188 (label of another size) are of the training split
    assert stems == ["00001", "00002", "00022", "00023"]


def test_labels_that_are_train_ids_already_are_taken(tmp_path: Path) -> None:
    """Beside or instead of labelIds, as cityscapesScripts' createTrainIdLabelImgs leaves them."""
    scenes = fabricate("cityscapes", tmp_path, frames=1)
    config = EvaluateConfig(dataset="cityscapes", root=str(tmp_path), split="val")
    (before,) = [np.asarray(open_evaluate(config, class_names=NINETEEN, size=SIZE).label(0))]
    ids = next(tmp_path.rglob("lindau*_labelIds.png"))
    save(Path(str(ids).replace("labelIds", "labelTrainIds")), before)
    ids.unlink()
    images = open_evaluate(config, class_names=NINETEEN, size=SIZE)
    np.testing.assert_array_equal(np.asarray(images.label(0)), before)
    assert len(scenes) == 4


# The hook sees every open() and every listing of the process; it runs first and cannot be taken away.
WATCH = """
import json, os, sys
seen = []
def watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and arguments and not isinstance(arguments[0], (int, type(None))):
        seen.append(os.fsdecode(arguments[0]))
sys.addaudithook(watch)
from sfda_engine.config.schema import TargetConfig
from sfda_engine.data.datasets import open_target
jobs = json.load(open(sys.argv[1]))
for dataset, root, split in jobs:
    images = open_target(TargetConfig(dataset=dataset, root=root, split=split))
    for i in range(len(images)):
        images.image(i)
json.dump(seen, open(sys.argv[2], "w"))
"""
LABEL_FOLDERS = {
    "gtFine",
    "gt",
    "GT",
    "labels",
    "Labels",
    "LabeledApproved_full",
    "trainannot",
    "valannot",
    "testannot",
}


def test_no_target_reader_opens_or_lists_a_label(trees: Trees, tmp_path: Path) -> None:
    jobs = [(dataset(kind), str(root), SPLITS[kind][0]) for kind, (root, _) in trees.items()]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("", "kernels", "export"))
    argv = [sys.executable, "-c", WATCH, str(tmp_path / "jobs.json"), str(tmp_path / "seen.json")]
    done = subprocess.run(argv, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    seen = [Path(path) for path in json.loads((tmp_path / "seen.json").read_text())]
    for kind, (root, _) in trees.items():
        inside = [path.relative_to(root) for path in seen if path.is_relative_to(root)]
        assert len([path for path in inside if path.suffix in (".png", ".jpg")]) >= SPLITS[kind][1]  # it does see them
        assert not [path for path in inside if set(path.parts) & LABEL_FOLDERS], kind


@pytest.mark.parametrize("kind", BUILDERS)
def test_label_folder_is_checked_without_a_look_into_it(kind: str, trees: Trees, tmp_path: Path) -> None:
    root, _ = trees[kind]
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    config = EvaluateConfig(dataset=dataset(kind), root=str(copy), split=SPLITS[kind][2])
    check_label_folder(config, names_of(kind))
    for folder in sorted(LABEL_FOLDERS):
        for path in list(copy.rglob(folder)):
            shutil.rmtree(path, ignore_errors=True)
    with pytest.raises(UserError, match=r"label folder "):
        check_label_folder(config, names_of(kind))


def target_error(**keys: object) -> str:
    with pytest.raises(UserError) as caught:
        open_target(TargetConfig(**keys))  # type: ignore[arg-type]
    return str(caught.value)


def test_wrong_roots_are_told_what_belongs_there(trees: Trees, tmp_path: Path) -> None:
    root, _ = trees["cityscapes"]
    assert "target.root" in target_error(dataset="cityscapes", split="train")
    message = target_error(dataset="cityscapes", root="nowhere", split="train")
    assert "nowhere" in message
    assert "leftImg8bit/<split>/<city>" in message
    assert f"{root} looks like its root" in target_error(dataset="cityscapes", root=str(root / "gtFine"), split="train")
    (tmp_path / "inner").symlink_to(root)
    assert "inner looks like its root" in target_error(dataset="cityscapes", root=str(tmp_path), split="train")
    (tmp_path / "leftImg8bit_trainvaltest.zip").write_bytes(b"PK")
    message = target_error(dataset="cityscapes", root=str(tmp_path), split="train")
    assert "leftImg8bit_trainvaltest.zip" in message


def test_wrong_splits_are_told_the_right_ones(trees: Trees) -> None:
    root = str(trees["crosscity"][0])
    message = target_error(dataset="crosscity", root=root, split="rome")
    assert "Rome, Rio, Tokyo, Taipei; " in message
    assert "split None" in target_error(dataset="crosscity", root=root)
    config = EvaluateConfig(dataset="bdd100k", root=root, split="test")
    with pytest.raises(UserError, match=r"'test': .*train, val"):
        open_evaluate(config, class_names=NINETEEN, size=SIZE)


def test_missing_labels_are_counted_and_named(tmp_path: Path) -> None:
    fabricate("cityscapes", tmp_path)
    missing = sorted((tmp_path / "gtFine" / "val").rglob("*_labelIds.png"))[0]
    missing.unlink()
    (tmp_path / "gtFine_trainvaltest.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"1 of 2 .*gtFine_trainvaltest\.zip.*data\.check"):
        evaluation("cityscapes", tmp_path, NINETEEN)


def test_missing_labels_are_counted_before_adaptation_too(tmp_path: Path) -> None:
    """By their names alone: `is_file` opens and lists nothing."""
    fabricate("cityscapes", tmp_path)
    config = EvaluateConfig(dataset="cityscapes", root=str(tmp_path), split="val")
    check_label_folder(config, NINETEEN)
    sorted((tmp_path / "gtFine" / "val").rglob("*_labelIds.png"))[1].unlink()
    with pytest.raises(UserError, match=r"1 of 2 .*cityscapes val"):
        check_label_folder(config, NINETEEN)


def test_fewer_frames_than_official_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fabricate("cityscapes", tmp_path)
    for _ in range(2):
        open_target(TargetConfig(dataset="cityscapes", root=str(tmp_path), split="train"))
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert re.match(rf"cityscapes train: 4 .* 2975 .*{re.escape(str(tmp_path))}", told[0])


def first_label_error(kind: str, root: Path, names: tuple[str, ...]) -> str:
    with pytest.raises(UserError) as caught:
        evaluation(kind, root, names).label(0)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["cityscapes", "synthia", "camvid_original", "bdd100k"])
def test_labels_of_another_encoding_are_refused(kind: str, tmp_path: Path) -> None:
    """Colors where ids belong, ids where 16 bits belong, interpolated colors, ids where train ids belong."""
    fabricate(kind, tmp_path)
    images = evaluation(kind, tmp_path, names_of(kind))
    assert isinstance(images, PairedFiles)
    path, frame = images.pairs[0].label, images.paths[0]
    if kind == "cityscapes":
        shutil.copy(frame, path)
        assert "has mode RGB" in first_label_error(kind, tmp_path, NINETEEN)
        Image.fromarray(np.full(SIZE[::-1], 255, np.uint8)).save(path)
        assert "value 255" in first_label_error(kind, tmp_path, NINETEEN)
    elif kind == "synthia":
        shutil.copy(tmp_path / "GT" / "COLOR" / path.name, path)
        assert "no 16-bit RGB PNG" in first_label_error(kind, tmp_path, NINETEEN)
    elif kind == "camvid_original":
        small = Image.open(path).resize((24, 16), Image.Resampling.BILINEAR)
        small.save(path)
        assert "color of" in first_label_error(kind, tmp_path, CAMVID)
    else:
        save(path, np.full(SIZE[::-1], 26, np.uint8))
        assert "value 26" in first_label_error(kind, tmp_path, NINETEEN)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    fabricate("synthia", tmp_path)
    images = evaluation("synthia", tmp_path, NINETEEN)
    assert isinstance(images, PairedFiles)
    for path, read in ((images.pairs[0].label, images.label), (images.paths[0], images.image)):
        path.write_bytes(path.read_bytes()[:60])
        with pytest.raises(UserError, match=rf"{path.name} (cannot be read|cannot be decoded)"):
            read(0)


def test_models_that_do_not_fit_are_told_so(trees: Trees) -> None:
    root = trees["cityscapes"][0]
    with pytest.raises(UserError, match=r"21 .*cityscapes has 19"):
        evaluation("cityscapes", root, generic_classes(21).names)
    with pytest.raises(UserError, match=r"'sign' .*cityscapes .*--model.classes cityscapes"):
        evaluation("cityscapes", root, SCENE_NAMES)
    config = EvaluateConfig(dataset="cityscapes", root=str(root), split="val")
    with pytest.raises(UserError, match="data set"):
        check_label_folder(config, CAMVID)
