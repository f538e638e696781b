"""What would end a long run later ends it at the start: cut files, labels of another encoding, class count or size."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from sfda_engine.config.schema import EvaluateConfig
from sfda_engine.data import preflight
from sfda_engine.data.classes import class_set
from sfda_engine.data.datasets import open_evaluate
from sfda_engine.data.preflight import look_at
from sfda_engine.errors import UserError
from tests.engine.data.fabricate import SIZE, fabricate, save

NINETEEN = class_set("cityscapes").names


def cut(path: Path, frame: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def empty(path: Path, frame: Path) -> None:
    path.write_bytes(b"")


def colors(path: Path, frame: Path) -> None:
    shutil.copy(frame, path)


def train_ids(path: Path, frame: Path) -> None:
    save(path, np.full(SIZE[::-1], 255, np.uint8))


def half_size(path: Path, frame: Path) -> None:
    save(path, np.full((SIZE[1] // 2, SIZE[0] // 2), 7, np.uint8))


def look(root: Path, *, same_size: bool = True) -> None:
    config = EvaluateConfig(dataset="cityscapes", root=str(root), split="val")
    look_at(open_evaluate(config, class_names=NINETEEN, size=SIZE), same_size=same_size)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, r"1 of 6 "),
        (empty, r"1 of 6 "),
        (colors, r"has mode RGB"),
        (train_ids, r"value 255"),
        (half_size, r"48x32, its label 24x16"),
    ],
)
def test_a_bad_label_is_found(damage: Callable[[Path, Path], None], words: str, tmp_path: Path) -> None:
    fabricate("cityscapes", tmp_path, frames=3)
    look(tmp_path)
    label = sorted((tmp_path / "gtFine" / "val").rglob("*_labelIds.png"))[-1]
    damage(label, next(tmp_path.rglob("lindau_000000*_leftImg8bit.png")))
    with pytest.raises(UserError, match=words):
        look(tmp_path)


def test_evaluation_may_have_labels_of_another_size(tmp_path: Path) -> None:
    fabricate("cityscapes", tmp_path, frames=1)
    half_size(next(tmp_path.rglob("lindau*_labelIds.png")), tmp_path)
    look(tmp_path, same_size=False)


def test_every_file_is_seen_to_its_end_a_sample_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "SAMPLE", 2)
    fabricate("cityscapes", tmp_path, frames=3)
    middle = sorted((tmp_path / "leftImg8bit" / "val").rglob("*.png"))[1]
    whole = middle.read_bytes()
    middle.write_bytes(whole[:40] + b"x" + whole[41:])  # whole, and not decodable
    look(tmp_path)
    middle.write_bytes(whole[:-30])
    with pytest.raises(UserError, match="stop before their end"):
        look(tmp_path)


def test_a_file_with_metadata_behind_its_end_is_whole(tmp_path: Path) -> None:
    fabricate("cityscapes", tmp_path, frames=1)
    frame = next((tmp_path / "leftImg8bit" / "val").rglob("*.png"))
    frame.write_bytes(frame.read_bytes() + b"\0" * 100)
    look(tmp_path)


def test_folders_are_looked_at_for_their_values(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for i in range(3):
            Image.new("L", (8, 8), 4 * i if kind == "labels" else 90).save(tmp_path / kind / f"{i}.png")
    images = open_evaluate(EvaluateConfig(root=str(tmp_path)), class_names=NINETEEN[:5], size=(8, 8))
    with pytest.raises(UserError, match=r"2\.png .* 8, .* 5 "):
        look_at(images, same_size=True)
    ImageOps.colorize(Image.new("L", (8, 8)), "red", "blue").save(tmp_path / "labels" / "0.png")
    with pytest.raises(UserError, match=r"0\.png has mode RGB"):
        look_at(images, same_size=True)
