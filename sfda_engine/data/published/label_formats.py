"""How published data sets write labels: raw values of a file, and the class that each value stands for.

The tables are the checked files `maps/*.csv` (value, the data set's own name, our class or empty = ignored).
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.PngImagePlugin import PngImageFile

from sfda_engine.data.classes import IGNORE
from sfda_engine.data.images import DECODING_ERRORS, decode_label, decode_rgb, open_image
from sfda_engine.errors import UserError

UNDEFINED = 254
"""Train id of raw values that a format does not define; always an error."""


@dataclass(frozen=True, eq=False)
class LabelFormat:
    """`read` gives raw values (H, W) uint8 of a file; `classes` names the class of each, None = ignored."""

    what: str
    read: Callable[[Path], NDArray[np.uint8]]
    classes: dict[int, str | None]

    def train_ids(self, names: tuple[str, ...]) -> NDArray[np.uint8]:
        """Train id of each raw value (256,): its position in `names`; 255 where the model has no such class."""
        table = np.full(256, UNDEFINED, np.uint8)
        for value, name in self.classes.items():
            table[value] = names.index(name) if name in names else IGNORE
        return table


def read_map(name: str) -> list[dict[str, str]]:
    """Rows of `maps/<name>.csv`."""
    text = (files("sfda_engine.data.published") / "maps" / f"{name}.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


@cache
def id_format(name: str, what: str) -> LabelFormat:
    """Ids in one 8-bit channel (or palette indices) by `maps/<name>.csv`; ids below 0 are never drawn."""
    rows = [row for row in read_map(name) if int(row["value"]) >= 0]
    return LabelFormat(what, read_ids, {int(row["value"]): row["class"] or None for row in rows})


@cache
def instance_format(name: str, what: str) -> LabelFormat:
    """16 bits a channel, the first one the class by `maps/<name>.csv`, the second one the instance."""
    return LabelFormat(what, read_low_bytes, {int(r["value"]): r["class"] or None for r in read_map(name)})


@cache
def color_format(name: str, what: str) -> LabelFormat:
    """Classes as exact colors "R G B" by `maps/<name>.csv`; the raw value is the row."""
    rows = read_map(name)
    colors = np.array([[int(channel) for channel in row["value"].split()] for row in rows])
    return LabelFormat(what, partial(read_colors, colors), {i: row["class"] or None for i, row in enumerate(rows)})


def read_ids(path: Path) -> NDArray[np.uint8]:
    """One 8-bit channel, or the indices of a palette image. Raises UserError for colors and 16 bits."""
    return np.asarray(decode_label(path))


def read_low_bytes(path: Path) -> NDArray[np.uint8]:
    """Low byte of the first channel of a 16-bit RGB PNG. Raises UserError for any other kind of file."""
    try:
        with open_image(path) as image:
            if not isinstance(image, PngImageFile) or [tile.args for tile in image.tile] != ["RGB;16B"]:
                raise UserError(
                    f"label {path} is no 16-bit RGB PNG with the class in its first channel and the instance in the "
                    "second, as in GT/LABELS; GT/COLOR and converted files do not tell the classes"
                )
            # Pillow keeps the high byte of big-endian 16 bits, always 0 here; read as little-endian it keeps the other
            image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
            return np.asarray(image)[..., 0]
    except DECODING_ERRORS as error:
        raise UserError(f"label {path} cannot be read ({error}); extract it again") from error


def read_colors(colors: NDArray[np.int64], path: Path) -> NDArray[np.uint8]:
    """Row of `colors` (N, 3) that each pixel of an RGB file has. Raises UserError where one is not among them."""
    try:
        pixels = np.asarray(decode_rgb(path), np.int64)
    except DECODING_ERRORS as error:
        raise UserError(f"label {path} cannot be read ({error}); extract it again") from error
    packed, known = pixels @ (1 << 16, 1 << 8, 1), colors @ (1 << 16, 1 << 8, 1)
    order = np.argsort(known)
    found = order[np.searchsorted(known, packed, sorter=order).clip(max=len(known) - 1)]
    wrong = known[found] != packed
    if wrong.any():
        red, green, blue = pixels[wrong][0]
        raise UserError(
            f"label {path}: {wrong.mean():.1%} of the pixels have the color of no class, as ({red}, {green}, {blue}); "
            "JPEG or resized with interpolation? Take the original color-coded PNG"
        )
    return found.astype(np.uint8)


TRAIN_IDS = id_format("train_ids", "Cityscapes train ids (0..18, 255 = ignore)")
CITYSCAPES_IDS = id_format("cityscapes", "Cityscapes label ids (0..33)")
