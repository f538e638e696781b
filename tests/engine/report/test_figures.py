"""Figures: colors, scales, patch borders and file names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sfda_engine.report.figures import (
    EASY,
    HARD,
    TINT,
    color_labels,
    heat_map,
    patch_borders,
    save_frame,
    save_synthetic,
    tint_patches,
)
from sfda_engine.report.reading import read_run

PALETTE = [(70, 130, 180), (128, 64, 128), (0, 0, 142)]


@given(st.integers(1, 300), st.integers(1, 20))
@settings(max_examples=25, deadline=None)
def test_borders_are_those_of_tensor_split(length: int, grid: int) -> None:
    sizes = [len(part) for part in torch.tensor_split(torch.arange(length), grid)]
    assert np.diff(patch_borders(length, grid)).tolist() == sizes


def test_labels_take_the_palette_and_ignored_is_black() -> None:
    labels = np.array([[0, 1], [2, 255]], dtype=np.uint8)
    picture = color_labels(labels, PALETTE)
    assert picture.size == (320, 320)
    pixels = np.asarray(picture.convert("RGB"))
    assert [tuple(pixels[y, x].tolist()) for y in (80, 240) for x in (80, 240)] == [*PALETTE, (0, 0, 0)]
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) == 4  # nearest: no mixed colors at the borders


@pytest.mark.parametrize(
    ("height_width", "size"),
    [((96, 128), (320, 240)), ((400, 300), (300, 400)), ((1024, 2048), (640, 320)), ((1, 3000), (640, 1))],
)
def test_long_side_is_between_320_and_640(height_width: tuple[int, int], size: tuple[int, int]) -> None:
    assert color_labels(np.zeros(height_width, dtype=np.uint8), PALETTE).size == size


def test_heat_map_is_normalized_by_log_classes() -> None:
    entropy = np.concatenate([np.zeros((400, 200)), np.full((400, 200), np.log(19.0))], axis=1)
    pixels = np.asarray(heat_map(entropy, classes=19))
    assert pixels[200, 100].tolist() == [0, 0, 3]  # the two ends of matplotlib's magma
    assert pixels[200, 300].tolist() == [251, 252, 191]
    half = np.asarray(heat_map(np.full((400, 400), np.log(4.0) / 2), classes=4))
    assert half[0, 0].tolist() == [182, 54, 121]


@given(st.integers(320, 400), st.integers(320, 400), st.integers(2, 7), st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_patches_are_tinted_where_tensor_split_puts_them(height: int, width: int, grid: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 100, dtype=np.uint8)
    easy = rng.random((grid, grid)) < 0.5
    pixels = torch.from_numpy(np.array(tint_patches(image, easy)))
    for i, band in enumerate(torch.tensor_split(pixels, grid, dim=0)):
        for j, patch in enumerate(torch.tensor_split(band, grid, dim=1)):
            color = np.array(EASY if easy[i, j] else HARD)
            inner = patch[1:, 1:].reshape(-1, 3).float().numpy()
            np.testing.assert_allclose(inner, np.tile(100 * (1 - TINT) + TINT * color, (len(inner), 1)), atol=0.51)


def test_saved_frames_are_found_in_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, (6, 8), dtype=np.uint8)
    image = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    for name in ("b_2", "a", "../x/../<c>", "a"):
        save_frame(tmp_path, name, image=image, source=ids, adapted=ids, palette=PALETTE)
    entropy, easy = rng.random((6, 8)), np.ones((2, 2), dtype=bool)
    maps = {"image": image, "source": ids, "adapted": ids, "label": ids}
    save_frame(tmp_path, "full", **maps, entropy=entropy, easy=easy, palette=PALETTE)
    save_synthetic(tmp_path, image[None].repeat(2, 0), ids[None].repeat(2, 0), PALETTE)
    assert {path.parent for path in tmp_path.rglob("*.png")} == {
        tmp_path / "figures",
        tmp_path / "figures/frames",
    }
    (tmp_path / "result.json").write_text("{}")
    run = read_run(tmp_path)
    assert [frame.name for frame in run.frames] == ["b_2", "a", "x-..-c", "full"]
    assert list(run.frames[0].cells) == ["adapted", "frame", "source"]
    assert set(run.frames[3].cells) == {"frame", "source", "adapted", "label", "entropy", "patches"}
    assert len(run.synthetic) == 2
    assert all(Image.open(path).width == 320 for frame in run.frames for path in frame.cells.values())


def test_a_map_of_another_size_is_refused(tmp_path: Path) -> None:
    ids, image = np.zeros((6, 8), dtype=np.uint8), np.zeros((6, 8, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="adapted of frame 'a'"):
        save_frame(tmp_path, "a", image=image, source=ids, adapted=ids.T, palette=PALETTE)
    with pytest.raises(ValueError, match="synthetic"):
        save_synthetic(tmp_path, image[None], ids[None, :3], PALETTE)
    assert not list(tmp_path.iterdir())
