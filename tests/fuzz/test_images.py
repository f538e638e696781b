"""Frames and label files that nobody drew: each is decoded, refused with a reason, or skipped with a warning."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfda_engine.data.check import check_end, check_frame, check_label
from sfda_engine.data.folder import drop_corrupt
from sfda_engine.data.frame_files import PairedFiles
from sfda_engine.data.images import DECODING_ERRORS, decode_label, decode_rgb
from sfda_engine.data.published import camvid, cityscapes, synthia
from sfda_engine.data.published.layout import Pair
from sfda_engine.errors import UserError
from sfda_runtime.errors import InputError
from sfda_runtime.sources import read_image
from tests.fuzz.conftest import amounts
from tests.fuzz.mutate import spoiled
from tests.fuzz.trial import run_cases

NOISE = np.random.default_rng(0)


def encoded(mode: str, form: str, **options: object) -> bytes:
    channels = {"RGB": 3, "RGBA": 4, "LA": 2}.get(mode)
    shape = (24, 32) if channels is None else (24, 32, channels)
    kind = np.uint16 if mode == "I;16" else np.uint8
    image = Image.fromarray(NOISE.integers(0, 200, shape).astype(kind), None if mode != "P" else "L")
    if mode == "P":
        image = image.convert("P")
    if mode == "1":
        image = image.convert("1")
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, pixels: bytes, *, depth: int = 8, color: int = 0, more: bytes = b"") -> bytes:
    """A PNG file whose header may lie about what follows, with sums that are right."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", zlib.compress(pixels, 9)) + chunk(b"IEND", b"")


WHOLE = (
    *(encoded(mode, "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
    *(encoded(mode, "JPEG") for mode in ("RGB", "L")),
    encoded("RGB", "JPEG", progressive=True),
    *(encoded("RGB", form) for form in ("TIFF", "BMP", "GIF", "WEBP", "PPM", "TGA", "ICO", "PCX")),
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\n%%EndComments\nshowpage\n",
    b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xd9",
    png(32, 24, bytes(33 * 24)),
    png(32, 24, b"".join(bytes([0]) + NOISE.bytes(192) for _ in range(24)), depth=16, color=2),
)  # fmt: skip
SIZES = (0, 1, 31, 33, 8192, 8193, 20000, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def image_bytes(dice: random.Random) -> bytes:
    """A spoiled file, or a PNG with right sums and a lie in its header."""
    if dice.random() < 0.75:
        return spoiled(dice.choice(WHOLE), dice, donor=dice.choice(WHOLE))
    text = zlib.compress(bytes(dice.choice((10, 2**20, 100 * 2**20)))) if dice.random() < 0.1 else b"x"
    kind = dice.choice((b"zTXt", b"iCCP", b"tEXt", b"PLTE", b"tRNS", b"gAMA", b"pHYs", b"eXIf", b"acTL", b"fcTL"))
    return png(
        dice.choice((32, dice.choice(SIZES))),
        dice.choice((24, dice.choice(SIZES))),
        bytes(dice.choice((0, 33 * 24, 200, 10**6))),
        depth=dice.choice((1, 2, 4, 8, 16, 3, 255)),
        color=dice.choice((0, 2, 3, 4, 6, 1, 99)),
        more=chunk(kind, dice.choice((b"", b"k\0\0" + text, dice.randbytes(40)))) if dice.random() < 0.5 else b"",
    )


@amounts(60, 3000)
def test_frames(count: int, tmp_path: Path) -> None:
    """Engine and vehicle decode the same files to the same pixels, and refuse the same ones."""
    good = tmp_path / "good.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(good)

    def case(dice: random.Random) -> None:
        path = tmp_path / dice.choice(("frame.png", "frame.jpg", "frame.jpeg", "frame.PNG"))
        path.write_bytes(image_bytes(dice))
        kept = drop_corrupt([good, path], max_share=0.5)
        try:
            theirs = read_image(path)
        except InputError:
            assert kept == [good]
            list(check_end(path)), list(check_frame(cityscapes.LAYOUT, path))
            raise
        assert kept == [good, path]
        assert np.array_equal(np.asarray(decode_rgb(path)), theirs)

    outcomes = run_cases("frames", case, count, refusals=(InputError,))
    assert outcomes["taken"]
    assert outcomes["InputError"]


@amounts(60, 2000)
def test_labels(count: int, tmp_path: Path) -> None:
    """Every label format: ids, colors, 16 bits."""
    frame, label = tmp_path / "frame.png", tmp_path / "label.png"
    Image.new("RGB", (32, 24)).save(frame)
    rules = [(layout, rule) for layout in (cityscapes.LAYOUT, camvid.LAYOUT, synthia.LAYOUT) for rule in layout.rules]

    def case(dice: random.Random) -> None:
        label.write_bytes(image_bytes(dice))
        layout, rule = dice.choice(rules)
        pair = Pair(frame, label, rule)
        list(check_end(label)), list(check_label(layout, pair))
        if dice.random() < 0.3:
            decode_label(label)
        else:
            PairedFiles([pair], ("road", "sky")).label(0)

    outcomes = run_cases("labels", case, count, refusals=(UserError,))
    assert outcomes["taken"]
    assert outcomes["UserError"]


def test_what_is_not_decoded(tmp_path: Path) -> None:
    """The limit is one for all: no pixel of a larger picture is decoded, nor of another format."""
    for content, reason in ((png(8193, 8192, b""), "8193x8192 is more than"), (encoded("RGB", "TIFF"), "identify")):
        path = tmp_path / "frame.png"
        path.write_bytes(content)
        for read, errors in ((decode_rgb, DECODING_ERRORS), (decode_label, (UserError,)), (read_image, (InputError,))):
            with pytest.raises(errors, match=reason):
                read(path)
