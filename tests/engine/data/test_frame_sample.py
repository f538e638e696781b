"""A sample of frames: which ones are read, and what is said of those that are damaged, blank or copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfda_engine.data.datasets import SceneImages
from sfda_engine.data.folder import list_images
from sfda_engine.data.frame_files import FrameFiles
from sfda_engine.data.frame_sample import SampledFrames, groups, read_sample
from sfda_engine.data.images import ImageSize

SIZE = ImageSize(12, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine noise frames of 12x8, PNG."""
    rng = np.random.default_rng(0)
    for number in range(9):
        noise = rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    return tmp_path


def frames(folder: Path) -> FrameFiles:
    return FrameFiles(list_images(folder))


def test_frames_are_spread_evenly_with_the_ends(folder: Path) -> None:
    sample, tensor = read_sample(frames(folder), 3, SIZE)
    assert (sample.total, sample.read, sample.usable, sample.sizes) == (9, 3, (0, 4, 8), {SIZE: 3})
    assert tensor.shape == (3, 3, 8, 12)
    for frame, number in zip(tensor, (0, 4, 8), strict=True):
        expected = np.asarray(Image.open(folder / f"{number}.png"), np.float32).transpose(2, 0, 1) / 255
        assert np.allclose(frame.numpy(), expected, atol=1e-6)
    assert not sample.unreadable + sample.constant + sample.duplicates


def test_fewer_frames_than_asked_for_are_all_read_once(folder: Path) -> None:
    sample, tensor = read_sample(frames(folder), 32, (6, 4))
    assert sample.usable == tuple(range(9))
    assert tensor.shape == (9, 3, 4, 6)


def test_damaged_and_one_colored_frames_are_named_and_left_out(folder: Path) -> None:
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:40])
    Image.new("RGB", SIZE, (10, 200, 30)).save(folder / "8.png")
    sample, tensor = read_sample(frames(folder), 3, SIZE)
    assert (sample.usable, len(tensor)) == ((4,), 1)
    assert sample.unreadable[0].startswith("0.png (")
    assert sample.constant == ("8.png",)
    assert sample.sizes == {SIZE: 2}


def test_no_usable_frame_is_an_empty_tensor(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(b"damaged")
    sample, tensor = read_sample(frames(folder), 2, SIZE)
    assert (sample.usable, tensor.shape) == ((), (0, 3, 8, 12))


def test_sampled_frames_are_those_of_the_data_set(folder: Path) -> None:
    some = SampledFrames(frames(folder), (0, 4, 8))
    assert (len(some), some.name(1)) == (3, "4")
    assert np.array_equal(np.asarray(some.image(2)), np.asarray(Image.open(folder / "8.png")))


def test_copies_are_found_among_all_files_not_the_sample_alone(folder: Path) -> None:
    shutil.copy(folder / "2.png", folder / "2b.png")
    shutil.copy(folder / "5.png", folder / "5b.png")
    shutil.copy(folder / "5.png", folder / "5c.png")
    assert read_sample(frames(folder), 2, SIZE)[0].duplicates == (("2.png", "2b.png"), ("5.png", "5b.png", "5c.png"))


def test_files_of_equal_length_are_no_copies(tmp_path: Path) -> None:
    for number, shade in enumerate((3, 4)):
        Image.new("L", (4, 4), shade).save(tmp_path / f"{number}.png")
    lengths = {path.stat().st_size for path in tmp_path.iterdir()}
    assert len(lengths) == 1
    assert read_sample(frames(tmp_path), 2, SIZE)[0].duplicates == ()


def test_scenes_have_no_files_and_are_compared_by_their_pixels() -> None:
    images = SceneImages("day", purpose="target", size=(32, 32), frames=3)
    images.scenes[2] = images.scenes[0]
    assert read_sample(images, 3, SIZE)[0].duplicates == (("day_0000", "day_0002"),)


def test_groups_hold_only_items_that_share_a_key() -> None:
    assert groups(range(7), lambda number: number % 4) == [[0, 4], [1, 5], [2, 6]]
