"""Plain folders: what is listed, what is skipped with a warning, what stops the run with a message."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfda_engine.config.schema import TargetConfig
from sfda_engine.data.datasets import open_target
from sfda_engine.data.folder import FolderLabelled, check_labels_there, drop_corrupt, list_images
from sfda_engine.data.frame_files import FrameFiles
from sfda_engine.errors import UserError

RNG = np.random.default_rng(0)


def frame(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def label(path: Path, highest: int = 2, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = np.zeros((size[1], size[0]), np.uint8)
    ids[0, 0], ids[1] = highest, 255
    Image.fromarray(ids).save(path)
    return path


def labelled_folder(root: Path, names: tuple[str, ...] = ("a", "b")) -> Path:
    for name in names:
        frame(root / "images" / f"{name}.jpg")
        label(root / "labels" / f"{name}.png")
    return root


def truncate(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-400])
    return path


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere"):
        list_images(tmp_path / "nowhere")


@pytest.mark.parametrize("inside", ["", "images"])
def test_empty_folder(inside: str, tmp_path: Path) -> None:
    folder = tmp_path / inside
    folder.mkdir(exist_ok=True)
    (folder / "notes.txt").write_text("no image")
    (folder / "album.png").mkdir()
    with pytest.raises(UserError, match=rf"no JPEG or PNG .*{re.escape(str(folder))}"):
        list_images(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.png"):
        list_images(frame(tmp_path / "a.png"))


def test_all_spellings_of_jpeg_and_png_are_sorted(tmp_path: Path) -> None:
    names = ["a.JPG", "b.jpeg", "c.png", "d.PNG", "e.jpg", "f.JPEG"]
    for name in reversed(names):
        frame(tmp_path / name)
    (tmp_path / "g.gif").write_bytes(b"GIF89a")
    assert [path.name for path in list_images(tmp_path)] == names
    assert [path.name for path in list_images(tmp_path, limit=2)] == names[:2]


def test_images_folder_wins_over_the_root_at_any_depth(tmp_path: Path) -> None:
    frame(tmp_path / "preview.png")
    inner = [frame(tmp_path / "images" / "drive1" / "a.png"), frame(tmp_path / "images" / "b.png")]
    assert sorted(list_images(tmp_path)) == sorted(inner)


@pytest.mark.parametrize("inside", ["", "images"])
def test_labels_are_never_frames(inside: str, tmp_path: Path) -> None:
    frame(tmp_path / inside / "a.png")
    label(tmp_path / "labels" / "a.png")
    images = open_target(TargetConfig(root=str(tmp_path)))
    assert isinstance(images, FrameFiles)
    assert images.paths == [tmp_path / inside / "a.png"]
    assert not hasattr(images, "label")


def test_frames_of_mixed_size_and_mode_keep_their_own(tmp_path: Path) -> None:
    frame(tmp_path / "a.png", (40, 30))
    frame(tmp_path / "b.jpg", (17, 55))
    Image.fromarray(RNG.integers(0, 255, (8, 9), dtype=np.uint8)).save(tmp_path / "c.png")
    images = open_target(TargetConfig(root=str(tmp_path)))
    assert [(images.name(i), images.image(i).size, images.image(i).mode) for i in range(len(images))] == [
        ("a", (40, 30), "RGB"),
        ("b", (17, 55), "RGB"),
        ("c", (9, 8), "RGB"),
    ]


def corrupt_some(root: Path, good: int) -> list[Path]:
    """`good` good frames and three corrupt ones: truncated JPEG, truncated PNG, no image at all."""
    for index in range(good):
        frame(root / f"good_{index}.jpg")
    (root / "text.png").write_text("this is no image")
    return [truncate(frame(root / "cut.jpg")), truncate(frame(root / "cut.png")), root / "text.png"]


def test_corrupt_frames_up_to_the_share_are_skipped_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = corrupt_some(tmp_path, good=9)
    with caplog.at_level(logging.WARNING):
        found = drop_corrupt(list_images(tmp_path), max_share=0.25)  # 3 of 12: just within
    assert [path.stem for path in found] == [f"good_{i}" for i in range(9)]
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 3
    assert all(any(str(path) in message for message in warned) for path in bad)


def test_corrupt_frames_past_the_share_stop_with_their_names(tmp_path: Path) -> None:
    corrupt_some(tmp_path, good=8)
    with pytest.raises(UserError, match=r"3 of 11 .*25%.*cut\.jpg.*cut\.png"):
        drop_corrupt(list_images(tmp_path), max_share=0.25)


def test_one_target_frame_of_twenty_may_be_corrupt(tmp_path: Path) -> None:
    corrupt = truncate(frame(tmp_path / "cut.png"))
    for index in range(19):
        frame(tmp_path / f"good_{index}.png")
    assert len(open_target(TargetConfig(root=str(tmp_path)))) == 19
    (tmp_path / "good_0.png").unlink()
    with pytest.raises(UserError, match=rf"1 of 19 .*5%.*{corrupt.name}"):
        open_target(TargetConfig(root=str(tmp_path)))


def test_corrupt_frames_alone_are_an_error_whatever_the_share(tmp_path: Path) -> None:
    corrupt_some(tmp_path, good=0)
    with pytest.raises(UserError, match="3 of 3 images"):
        drop_corrupt(list_images(tmp_path), max_share=1.0)


def test_evaluation_tolerates_no_corrupt_frame(tmp_path: Path) -> None:
    root = labelled_folder(tmp_path)
    truncate(root / "images" / "b.jpg")
    with pytest.raises(UserError, match=r"b\.jpg"):
        FolderLabelled(root, num_classes=3)


def test_labels_belong_to_the_frames_of_their_stem(tmp_path: Path) -> None:
    root = labelled_folder(tmp_path)
    label(root / "labels" / "a.png", highest=1)
    label(root / "labels" / "of_no_frame.png", highest=200)
    images = FolderLabelled(root, num_classes=3)
    assert [np.asarray(images.label(i))[0, 0] for i in range(2)] == [1, 2]
    assert len(FolderLabelled(root, num_classes=3, limit=1)) == 1


def test_labels_may_be_of_another_size(tmp_path: Path) -> None:
    root = labelled_folder(tmp_path)
    label(root / "labels" / "a.png", size=(80, 60))
    images = FolderLabelled(root, num_classes=3)
    assert (images.image(0).size, images.label(0).size) == ((40, 30), (80, 60))


def test_missing_label_folder(tmp_path: Path) -> None:
    frame(tmp_path / "images" / "a.png")
    with pytest.raises(UserError, match=r"label folder .*labels"):
        FolderLabelled(tmp_path, num_classes=3)


def test_missing_label_is_named(tmp_path: Path) -> None:
    root = labelled_folder(tmp_path, ("a", "b", "c"))
    for name in ("b", "c"):
        (root / "labels" / f"{name}.png").unlink()
    with pytest.raises(UserError, match=r"2 images .*b\.png"):
        FolderLabelled(root, num_classes=3)


@pytest.mark.parametrize("ambiguous", ["images", "labels"])
def test_two_files_of_one_stem_cannot_be_paired(ambiguous: str, tmp_path: Path) -> None:
    root = labelled_folder(tmp_path)
    twin = root / ambiguous / "second_drive"
    label(twin / "a.png") if ambiguous == "labels" else frame(twin / "a.jpg")
    with pytest.raises(UserError, match=rf"stem a, .*{ambiguous}"):
        FolderLabelled(root, num_classes=3)


def test_label_value_out_of_range_is_named(tmp_path: Path) -> None:
    images = FolderLabelled(labelled_folder(tmp_path), num_classes=2)  # the labels hold 0, 2 and 255
    with pytest.raises(UserError, match=r"a\.png .* 2, .* 2 "):
        images.label(0)


def test_a_missing_label_is_found_by_names_alone(tmp_path: Path) -> None:
    root = labelled_folder(tmp_path, ("a", "b", "c"))
    (root / "labels" / "a.png").write_text("opening this would fail")
    check_labels_there(root)
    for name in ("b", "c"):
        (root / "labels" / f"{name}.png").unlink()
    with pytest.raises(UserError, match=r"2 of 3 .*labels, .*b\.png"):
        check_labels_there(root)
    check_labels_there(root, limit=1)
    (root / "labels" / "a.png").unlink()
    with pytest.raises(UserError, match=r"3 of 3 "):
        check_labels_there(root)


def test_labels_may_lie_in_folders(tmp_path: Path) -> None:
    frame(tmp_path / "images" / "drive" / "x" / "a.jpg")
    for inside in ("", "drive/x", "x"):
        path = label(tmp_path / "labels" / inside / "a.png")
        check_labels_there(tmp_path)
        assert len(FolderLabelled(tmp_path, num_classes=3)) == 1
        path.unlink()
    frame(tmp_path / "images" / "a.jpg")
    with pytest.raises(UserError, match="stem a"):
        check_labels_there(tmp_path)


def test_labels_in_folders_of_other_names_cannot_be_told_and_pass(tmp_path: Path) -> None:
    frame(tmp_path / "images" / "a.jpg")
    label(tmp_path / "labels" / "elsewhere" / "a.png")
    if (tmp_path / "labels").stat().st_nlink < 3:
        pytest.skip("a file system that does not count folders")
    check_labels_there(tmp_path)
