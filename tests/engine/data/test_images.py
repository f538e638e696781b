"""Any file a camera or an annotator leaves becomes 8-bit RGB, or is refused with words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sfda_engine.data.images import DECODING_ERRORS, decode_label, decode_rgb, resize, resize_labels, to_float_tensor
from sfda_engine.errors import UserError

GREY = np.array([[0, 1, 127], [128, 254, 255]], np.uint8)
COLOR = np.random.default_rng(0).integers(0, 256, (2, 3, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image) -> Path:
    image.save(path)
    return path


def pixels(path: Path) -> np.ndarray:
    image = decode_rgb(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_grey_is_the_same_in_all_channels(tmp_path: Path) -> None:
    path = saved(tmp_path / "grey.png", Image.fromarray(GREY))
    np.testing.assert_array_equal(pixels(path), GREY[..., None].repeat(3, 2))


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    path = saved(tmp_path / "bits.png", Image.fromarray(GREY > 127))
    np.testing.assert_array_equal(pixels(path), np.where(GREY > 127, 255, 0)[..., None].repeat(3, 2))


def test_alpha_is_dropped_not_blended(tmp_path: Path) -> None:
    alpha = np.array([[0, 10, 255], [128, 0, 1]], np.uint8)
    path = saved(tmp_path / "rgba.png", Image.fromarray(np.dstack([COLOR, alpha])))
    np.testing.assert_array_equal(pixels(path), COLOR)
    path = saved(tmp_path / "la.png", Image.fromarray(np.dstack([GREY, alpha]), mode="LA"))
    np.testing.assert_array_equal(pixels(path), GREY[..., None].repeat(3, 2))


def test_palette_is_looked_up(tmp_path: Path) -> None:
    ids, palette = np.array([[0, 1, 2], [2, 0, 1]], np.uint8), COLOR.reshape(-1, 3)[:3]
    image = Image.fromarray(ids)
    image.putpalette(palette.tobytes())
    np.testing.assert_array_equal(pixels(saved(tmp_path / "palette.png", image)), palette[ids])


def test_sixteen_bits_become_the_high_byte(tmp_path: Path) -> None:
    wide = np.array([[0, 255, 256, 511], [4095, 32768, 65279, 65535]], np.uint16)
    path = saved(tmp_path / "wide.png", Image.fromarray(wide))
    with Image.open(path) as stored:
        assert stored.mode.startswith("I"), "the file must really be of 16 bits"
    np.testing.assert_array_equal(pixels(path), (wide // 256)[..., None].repeat(3, 2))


def test_cmyk_jpeg_has_the_colors_of_its_rgb(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    path = saved(tmp_path / "print.jpg", Image.fromarray(flat).convert("CMYK"))
    with Image.open(path) as stored:
        assert stored.mode == "CMYK"
    assert np.abs(pixels(path).astype(int) - flat).max() <= 3


def test_labels_are_ids_with_or_without_a_palette(tmp_path: Path) -> None:
    image = Image.fromarray(GREY)
    plain = saved(tmp_path / "plain.png", image)
    image.putpalette(bytes(range(255, -1, -1)) * 3)
    colored = saved(tmp_path / "colored.png", image)
    for path in (plain, colored):
        label = np.asarray(decode_label(path))
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, GREY)


@pytest.mark.parametrize(
    "image",
    [Image.fromarray(COLOR), Image.fromarray(GREY.astype(np.uint16) * 257), Image.fromarray(GREY > 127)],
    ids=["color", "16 bits", "1 bit"],
)
def test_label_of_another_mode_is_refused(image: Image.Image, tmp_path: Path) -> None:
    path = saved(tmp_path / "label.png", image)
    with pytest.raises(UserError, match=r"label\.png .*mode "):
        decode_label(path)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_damaged_file_is_an_error_of_the_promised_kind(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = saved(tmp_path_factory.mktemp("damaged") / "label.png", Image.fromarray(GREY.repeat(8, 0).repeat(8, 1)))
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        decode_rgb(path)
    except DECODING_ERRORS:
        with pytest.raises(UserError, match=r"label\.png"):
            decode_label(path)


@pytest.mark.parametrize(
    ("chunk", "length", "what"), [(b"IHDR", 1, "Truncated IHDR"), (b"IDAT", 2, "broken PNG")], ids=["header", "data"]
)
def test_label_with_a_wrong_chunk_length_is_named(chunk: bytes, length: int, what: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "label.png", Image.fromarray(GREY))
    raw = bytearray(path.read_bytes())
    at = raw.index(chunk)
    raw[at - 4 : at] = length.to_bytes(4, "big")
    path.write_bytes(raw)
    with pytest.raises((SyntaxError, ValueError), match=what):
        decode_rgb(path)  # not an OSError, as most damage is
    with pytest.raises(UserError, match=r"label\.png"):
        decode_label(path)


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 40), height=st.integers(1, 40), to_width=st.integers(1, 40), to_height=st.integers(1, 40))
def test_resize_averages_with_a_triangle_that_grows_with_the_step(
    width: int, height: int, to_width: int, to_height: int
) -> None:
    grey = np.random.default_rng(width * height).integers(0, 256, (height, width), dtype=np.uint8)
    resized = np.asarray(resize(Image.fromarray(grey).convert("RGB"), (to_width, to_height)))
    expected = triangle(height, to_height) @ grey @ triangle(width, to_width).T
    assert resized.shape == (to_height, to_width, 3)
    assert np.abs(resized - expected[..., None]).max() <= 1.5  # two roundings to 8 bits, one for each direction


def triangle(size: int, to_size: int) -> np.ndarray:
    """Weights (to_size, size) of bilinear resampling with antialiasing, half-pixel centers, float64."""
    step = size / to_size
    centers = (np.arange(to_size) + 0.5) * step
    weights = np.maximum(0, 1 - np.abs(np.arange(size) + 0.5 - centers[:, None]) / max(step, 1))
    return weights / weights.sum(1, keepdims=True)


def test_image_of_the_right_size_is_left_alone() -> None:
    image = Image.fromarray(COLOR)
    assert resize(image, (3, 2)) is image


def test_float_tensor_is_pixels_over_255() -> None:
    tensor = to_float_tensor(Image.fromarray(COLOR))
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), COLOR.transpose(2, 0, 1) / 255.0, rtol=1e-6)


@pytest.mark.parametrize(("size", "to_size"), [((128, 96), (480, 360)), ((160, 120), (500, 333)), ((40, 30), (7, 5))])
def test_labels_go_to_the_neighbor_that_pillow_takes(size: tuple[int, int], to_size: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 256, size[::-1], np.uint8)
    resized = resize_labels(torch.from_numpy(labels).long(), to_size)
    assert resized.dtype == torch.int64
    np.testing.assert_array_equal(resized, np.asarray(Image.fromarray(labels).resize(to_size, 0)))
