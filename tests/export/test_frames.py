"""Which frames an export is tried on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfda_engine.config.schema import EvaluateConfig, TargetConfig
from sfda_engine.data.classes import class_set
from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_export.frames import gate_batches, hash_of, labelled, read_frames, second_size, target_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """30 grey frames; the value of a frame is its number."""
    (tmp_path / "images").mkdir()
    for number in range(30):
        Image.new("RGB", (64, 48), (number, number, number)).save(tmp_path / "images" / f"{number:02d}.png")
    return tmp_path


def numbers(frames: list[Image.Image]) -> list[int]:
    return [frame.getpixel((0, 0))[0] for frame in frames]  # type: ignore[index]


def test_frames_are_spread_over_the_folder_and_resized(folder: Path) -> None:
    frames = read_frames(TargetConfig(root=str(folder)), ImageSize(32, 40))
    assert numbers(frames) == [0, 4, 8, 12, 17, 21, 25, 29]
    assert {frame.size for frame in frames} == {(32, 40)}


def test_a_split_and_too_few_frames(folder: Path) -> None:
    frames = read_frames(TargetConfig(root=str(folder.parent), split=folder.name), ImageSize(32, 40), count=64)
    assert numbers(frames) == list(range(30))


def test_corrupt_frames_are_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "images" / "04.png").write_bytes(b"no image")
    assert numbers(read_frames(TargetConfig(root=str(folder)), ImageSize(32, 40))) == [0, 8, 12, 17, 21, 25, 29]
    assert "04.png" in caplog.text


def test_no_readable_frame(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="of 1 "):
        read_frames(TargetConfig(root=str(tmp_path)), ImageSize(32, 32))


def test_scenes_need_no_folder() -> None:
    target = target_of("scenes:fog", None)
    frames = read_frames(target, ImageSize(48, 32), count=2)
    assert [frame.size for frame in frames] == [(48, 32), (48, 32)]
    assert target_of("x", target).root == "x"
    assert target_of(None, target) is target
    with pytest.raises(UserError, match="--frames DIR"):
        target_of(None, None)


def test_batches_have_both_sizes_both_numbers_and_extremes_of_light() -> None:
    frames = [Image.new("RGB", (64, 48), (100, 150, 200)) for _ in range(3)]
    batches = gate_batches(frames, ImageSize(47, 35))
    assert [batch.shape for batch in batches] == [(2, 48, 64, 3), (2, 35, 47, 3), *[(1, 48, 64, 3)] * 5]
    assert batches[-2][0, 0, 0].tolist() == [5, 7, 10]
    assert batches[-1][0, 0, 0].tolist() == [255, 255, 255]
    assert [batch.shape for batch in gate_batches(frames[:1], None)] == [(1, 48, 64, 3)] * 3


@pytest.mark.parametrize(
    ("size", "multiple", "expected"),
    [((128, 96), 1, (95, 71)), ((512, 256), 32, (352, 160)), ((32, 32), 1, (64, 64)), ((32, 64), 32, (32, 32))],
)
def test_the_second_size(size: tuple[int, int], multiple: int, expected: tuple[int, int]) -> None:
    assert second_size(ImageSize(*size), multiple, 32) == expected


def test_the_hash_sees_pixels_and_shapes() -> None:
    frames = np.zeros((1, 4, 6, 3), np.uint8)
    changed = frames.copy()
    changed[0, 0, 0, 0] = 1
    assert len({hash_of([frames]), hash_of([changed]), hash_of([frames.reshape(1, 6, 4, 3)])}) == 3


CLASSES = class_set("scenes").names


def test_labels_come_from_the_option_else_from_the_run(folder: Path) -> None:
    assert labelled(None, None, (), (32, 32)) is None
    configured = EvaluateConfig(dataset="scenes", split="day", frames=1)
    images = labelled(None, configured, CLASSES, (32, 32))
    assert images is not None
    assert images.label(0).size == (32, 32)
    with pytest.raises(UserError, match="no label folder"):
        labelled(str(folder), configured, CLASSES, (32, 32))
