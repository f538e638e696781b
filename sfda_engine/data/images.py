"""Decode one image or label file, whatever its mode, and resize by the project's one rule (frames bilinear, labels
nearest, both by Pillow)."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from sfda_engine.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
# Pillow's other decoders never see a file: some are weak, one starts a program.
FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 2**26
"""Largest frame or label, 8192x8192; a file of kilobytes can claim to be one of gigabytes."""


class ImageSize(NamedTuple):
    """Sides in pixels, the width first as in Pillow and in the configuration. A bare pair is (H, W), as in torch."""

    width: int
    height: int

    @property
    def hw(self) -> tuple[int, int]:
        """(H, W), as torch wants it."""
        return self.height, self.width


def stated(pair: tuple[int, int] | None) -> ImageSize | None:
    """A size of the configuration, which says [width, height] or null."""
    return None if pair is None else ImageSize(*pair)


# what Pillow raises for a damaged file
DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, Image.DecompressionBombError),
    *(EOFError, IndexError, TypeError, KeyError, struct.error),
)
# The last bytes of a file that was written wholly; metadata may follow them.
ENDS = {".png": b"IEND", ".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9"}
TAIL = 64


def ends_well(path: Path) -> bool:
    """Whether a PNG or JPEG has its last bytes: cheap, where decoding is not. Interrupted extractions lack them."""
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, TAIL), os.SEEK_END)
        return ENDS[path.suffix.lower()] in file.read()


def cut_short(path: Path) -> Exception | None:
    """What decoding says of a file that stops before its end; None where it is whole, or ends in some odd way."""
    if ends_well(path):
        return None
    try:
        decode_rgb(path)
    except DECODING_ERRORS as error:
        return error
    return None


def open_image(file: Path | BinaryIO) -> Image.Image:
    """A PNG or JPEG file, its pixels not decoded yet. Raises one of DECODING_ERRORS; more than MAX_PIXELS is one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its limit is not ours
        image = Image.open(file, formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        image.close()
        raise Image.DecompressionBombError(f"{size} is more than {MAX_PIXELS} pixels, the most that is decoded")
    return image


def decode_rgb(path: Path) -> Image.Image:
    """One file as 8-bit RGB: grey and palette images are expanded, alpha is dropped, 16 bits become 8.

    Raises one of DECODING_ERRORS where the file is corrupt.
    """
    with open_image(path) as image:
        if image.mode.startswith("I"):
            # Pillow clips 16-bit values at 255 when it converts; a high byte is what a viewer would show.
            wide = np.asarray(image, dtype=np.int64)
            return Image.fromarray((wide >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")


def decode_label(path: Path) -> Image.Image:
    """One label file as 8-bit train ids (H, W). Raises UserError where it is not an index image."""
    try:
        with open_image(path) as image:
            if image.mode not in ("L", "P"):
                raise UserError(
                    f"label {path} has mode {image.mode}: expected one 8-bit channel of train ids (255 = ignore). "
                    "Convert color-coded or 16-bit labels to train ids first"
                )
            return Image.fromarray(np.asarray(image))
    except DECODING_ERRORS as error:
        raise UserError(f"label {path} cannot be read ({error}); re-export it or remove the pair") from error


def resize(image: Image.Image, size: ImageSize) -> Image.Image:
    """Resize a frame to (width, height) by Pillow's bilinear filter: the rule of loaders, runtime and manifest."""
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def resize_labels(labels: torch.Tensor, size: ImageSize) -> torch.Tensor:
    """Labels (H, W) of values 0..255 to (width, height) by Pillow's nearest neighbor, as the runtime does; int64.

    Not torch's nearest-exact: Pillow sums up its positions and so picks another neighbor at many a tie (128 -> 480).
    """
    image = Image.fromarray(labels.to("cpu", torch.uint8).numpy()).resize(size, Image.Resampling.NEAREST)
    return transforms.pil_to_tensor(image)[0].to(labels.device, torch.int64)


def to_float_tensor(image: Image.Image) -> torch.Tensor:
    """RGB image -> float32 (3, H, W) in [0, 1]."""
    return transforms.to_dtype(transforms.pil_to_tensor(image), torch.float32, scale=True)
