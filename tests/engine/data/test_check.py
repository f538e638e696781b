"""`python -m sfda_engine.data.check`: whole data sets pass, each kind of damage is told with the file it is in."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfda_engine.data.check import SHOWN, main, recognize
from sfda_engine.data.datasets import LAYOUTS
from sfda_engine.errors import UserError
from sfda_engine.exit_codes import exit_code
from tests.engine.data.fabricate import BUILDERS, SIZE, fabricate, save

FRAMES = 2
# Frames that a fabricated data set has in splits that do not have FRAMES of them.
OTHERWISE = {("cityscapes", "train"): 4, ("gta5", "train"): 4}


@pytest.fixture(autouse=True)
def miniature(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official numbers and sizes, shrunk to those of the fabricated trees."""
    for name, layout in LAYOUTS.items():
        splits = {split: n and OTHERWISE.get((name, split), FRAMES) for split, n in layout.splits.items()}
        labelled = {split: splits[split] for split in layout.labelled}
        size = layout.size and SIZE
        small = dataclasses.replace(layout, splits=splits, labelled=labelled, size=size)
        monkeypatch.setitem(LAYOUTS, name, small)


@pytest.fixture
def city(tmp_path: Path) -> Path:
    fabricate("cityscapes", tmp_path / "city", frames=FRAMES)
    return tmp_path / "city"


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """Exit code and everything printed, with the folds of the terminal taken out."""
    code = exit_code(main, argv)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_whole_data_set_is_recognized_and_passes(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fabricate(kind, tmp_path, frames=FRAMES)
    name = kind.removesuffix("_original").removesuffix("_old")
    assert recognize(tmp_path).name == name
    code, text = told(capsys, str(tmp_path), "--all")
    assert (code, "nothing is wrong" in text) == (0, True), text
    assert name in text


def test_the_table_counts_frames_and_labels(city: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = told(capsys, str(city))
    rows = {cells[0]: cells[1:] for line in text.splitlines() if len(cells := line.replace("│", " ").split()) == 4}
    assert rows == {"train": ["4", "4", "4"], "val": ["2", "2", "2"], "test": ["2", "2", "-"]}


def test_missing_frames_labels_and_orphans_are_told_apart(city: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = next(city.rglob("aachen_000001*_leftImg8bit.png"))
    label = next(city.rglob("lindau_000001*_labelIds.png"))
    frame.unlink()
    label.unlink()
    code, text = told(capsys, str(city))
    assert code == 2
    assert "3 frames, officially 4" in text
    assert f"{label.name.replace('gtFine_labelIds', 'leftImg8bit')} has no {label}" in text
    assert "aachen_000001_000019_gtFine_labelIds.png" in text
    assert text.count("labels without a frame: 1") == text.count("frames without a label: 1") == 1


def test_an_absent_split_is_missing_only_where_labels_are_due(city: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(city / "leftImg8bit" / "test")
    assert told(capsys, str(city))[0] == 0
    shutil.rmtree(city / "leftImg8bit" / "val")
    code, text = told(capsys, str(city))
    assert code == 2
    assert "split val: no frame" in text


def test_half_extracted_archives_are_named(city: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (city / "gtFine_trainvaltest.zip").write_bytes(b"PK")
    assert told(capsys, str(city))[0] == 0  # an archive beside a whole data set harms nobody
    cut = sorted((city / "gtFine" / "val").rglob("*_labelIds.png"))[0]
    cut.write_bytes(cut.read_bytes()[:-30])
    empty = sorted((city / "leftImg8bit" / "train").rglob("*.png"))[0]
    empty.write_bytes(b"")
    code, text = told(capsys, str(city))
    assert code == 2
    assert "damaged files: 2" in text
    for path in (cut, empty):
        assert f"{path} cannot be decoded" in text
    assert "gtFine_trainvaltest.zip" in text


def test_a_cut_file_is_found_outside_the_sample_too(
    city: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfda_engine.data.check.SAMPLE", 1)
    cut = sorted((city / "leftImg8bit" / "train").rglob("*.png"))[2]
    cut.write_bytes(cut.read_bytes()[:-30])
    code, text = told(capsys, str(city))
    assert code == 2
    assert f"{cut} cannot be decoded" in text


def test_all_decodes_what_a_sample_leaves_out(
    city: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfda_engine.data.check.SAMPLE", 1)
    label = sorted((city / "gtFine" / "train").rglob("*_labelIds.png"))[2]
    save(label, np.full(SIZE[::-1], 255, np.uint8))
    assert told(capsys, str(city))[0] == 0
    code, text = told(capsys, str(city), "--all")
    assert code == 2
    assert f"label {label} holds the value 255" in text


def test_encodings_and_sizes_are_checked(city: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = sorted((city / "gtFine" / "train").rglob("*_labelIds.png"))
    shutil.copy(next(city.rglob("*_leftImg8bit.png")), labels[0])
    save(labels[1], np.full(SIZE[::-1], 34, np.uint8))
    save(labels[2], np.full((8, 8), 7, np.uint8))
    frame = sorted((city / "leftImg8bit" / "val").rglob("*.png"))[0]
    Image.new("RGB", (24, 16)).save(frame)
    code, text = told(capsys, str(city))
    assert code == 2
    assert f"label {labels[0]} has mode RGB" in text
    assert f"label {labels[1]} holds the value 34, but its values are Cityscapes label ids (0..33)" in text
    assert f"{labels[2]} is 8x8, " in text
    assert f"{frame} is 24x16, officially 48x32" in text


def test_eight_bit_synthia_is_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fabricate("synthia", tmp_path, frames=FRAMES)
    label = tmp_path / "GT" / "LABELS" / "0000000.png"
    shutil.copy(tmp_path / "GT" / "COLOR" / label.name, label)
    code, text = told(capsys, str(tmp_path))
    assert code == 2
    assert f"label {label} is no 16-bit RGB PNG" in text


def test_many_findings_are_counted_and_some_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fabricate("acdc", tmp_path, frames=FRAMES)
    shutil.rmtree(tmp_path / "gt")
    code, text = told(capsys, str(tmp_path))
    assert code == 2
    assert ": 16" in text
    assert text.count("has no") == SHOWN
    assert "and 11 more" in text


def test_folders_that_are_no_data_set(tmp_path: Path, city: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv, message in (
        ([str(tmp_path / "nowhere")], "nowhere does not exist"),
        ([str(city.parent)], f"{city} does: give that folder"),
        ([str(city / "gtFine")], "looks like none of cityscapes, gta5"),
        ([str(city / "gtFine"), "--dataset", "cityscapes"], "expected leftImg8bit/<split>/<city>"),
    ):
        code, text = told(capsys, *argv)
        assert code == 2
        assert message in text
    (tmp_path / "leftImg8bit_trainvaltest.zip").write_bytes(b"PK")
    assert "leftImg8bit_trainvaltest.zip" in told(capsys, str(tmp_path))[1]


def test_a_folder_of_two_data_sets_asks_which(city: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fabricate("acdc", city, frames=FRAMES)
    with pytest.raises(UserError, match=r"cityscapes and acdc.*--dataset"):
        recognize(city)
    assert told(capsys, str(city), "--dataset", "acdc")[0] == 0
