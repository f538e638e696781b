"""Label maps and entropies as pictures: index PNG, overlay, heat map."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sfda_runtime.card import IGNORE

if TYPE_CHECKING:
    from PIL.Image import Image

# The rule of sfda_engine/data/images.py: what is decoded, and how large it may be (8192x8192).
FORMATS = ("PNG", "JPEG")
MAX_PIXELS = 2**26

Palette = Sequence[tuple[int, int, int]]

# black, red, yellow, white: from certain to undecided
HEAT = np.stack(
    [np.interp(np.arange(256), knots, (0, 255)).round().astype(np.uint8) for knots in ((0, 96), (96, 192), (192, 255))],
    axis=1,
)


def open_image(content: bytes) -> Image:
    """A PNG or JPEG, its pixels not decoded yet. ValueError, or another error of Pillow's, where it is none."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its limit is not ours
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(f"{image.width}x{image.height} is more than {MAX_PIXELS} pixels, the most that is decoded")
    return image


def decoding_errors() -> tuple[type[Exception], ...]:
    """What Pillow raises for a damaged file."""
    from PIL import Image

    return (
        *(OSError, SyntaxError, ValueError, Image.DecompressionBombError),
        *(EOFError, IndexError, TypeError, KeyError, struct.error),
    )


def index_png(labels: NDArray[np.uint8], palette: Palette) -> bytes:
    """Labels uint8 (H, W) as a PNG of mode P: the pixel is the class, the palette its color; 255 is black."""
    from PIL import Image

    image = Image.fromarray(labels)
    image.putpalette(color_table(palette).tobytes())
    return _png(image)


def read_index_png(content: bytes) -> NDArray[np.uint8]:
    """The labels uint8 (H, W) of an index PNG. One of `decoding_errors` where it is no such picture."""
    with open_image(content) as image:
        if image.mode not in ("P", "L"):
            raise ValueError(f"mode {image.mode}, not an index image")
        return np.asarray(image)


def overlay_png(frame: NDArray[np.uint8], labels: NDArray[np.uint8], palette: Palette, alpha: float = 0.5) -> bytes:
    """The frame (H, W, 3) with the classes' colors over it as a PNG; where there is no class the frame shows as it is.

    The labels are brought to the frame's size by nearest neighbor.
    """
    from PIL import Image

    at_frame = np.asarray(Image.fromarray(labels).resize(frame.shape[1::-1], Image.Resampling.NEAREST))
    weight = np.where(at_frame == IGNORE, 0.0, alpha)[..., None]
    mixed = (1 - weight) * frame + weight * color_table(palette)[at_frame]
    return _png(Image.fromarray(mixed.round().astype(np.uint8)))


def heat_png(values: NDArray[np.uint8]) -> bytes:
    """A map uint8 (H, W) of 0..255 as a PNG of mode P: black, red, yellow, white; the pixel is the value."""
    from PIL import Image

    image = Image.fromarray(values)
    image.putpalette(HEAT.tobytes())
    return _png(image)


def color_table(palette: Palette) -> NDArray[np.uint8]:
    """Colors (256, 3) by label; black where there is no class."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table


def _png(image: Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
