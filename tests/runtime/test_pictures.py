"""Index PNGs are lossless; overlay and heat map show what they say."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sfda_runtime.pictures import HEAT, heat_png, index_png, overlay_png, read_index_png
from tests.runtime.tiny import PALETTE, labels_of, picture


def test_index_png_keeps_every_label_and_shows_the_palette() -> None:
    labels = labels_of(picture(0))
    labels[0, :5] = 255
    png = index_png(labels, PALETTE)
    np.testing.assert_array_equal(read_index_png(png), labels)
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "P"
        colors = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(colors[labels < 4], np.array(PALETTE)[labels[labels < 4]])
    assert (colors[labels == 255] == 0).all()


def test_all_256_values_survive() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(read_index_png(index_png(values, PALETTE)), values)
    np.testing.assert_array_equal(read_index_png(heat_png(values)), values)


def test_reading_refuses_a_color_picture() -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(0)).save(buffer, "PNG")
    with pytest.raises(ValueError, match="RGB"):
        read_index_png(buffer.getvalue())


def test_overlay_mixes_and_leaves_unlabelled_pixels_alone() -> None:
    frame = picture(1)
    labels = labels_of(frame)[:24, :32].copy()
    labels[0, 0] = 255
    with Image.open(io.BytesIO(overlay_png(frame, labels, PALETTE, alpha=0.25))) as image:
        mixed = np.asarray(image)
    assert mixed.shape == frame.shape
    np.testing.assert_array_equal(mixed[:2, :2], frame[:2, :2])  # the unlabelled pixel, twice as large here
    color = np.array(PALETTE[labels[3, 5]])
    np.testing.assert_allclose(mixed[7, 11], 0.75 * frame[7, 11] + 0.25 * color, atol=0.51)


def test_heat_rises_from_black_to_white() -> None:
    assert HEAT.shape == (256, 3)
    assert tuple(HEAT[0]) == (0, 0, 0)
    assert tuple(HEAT[255]) == (255, 255, 255)
    assert (np.diff(HEAT.astype(int), axis=0) >= 0).all()
    assert (np.diff(HEAT.astype(int).sum(1)) > 0).all()
