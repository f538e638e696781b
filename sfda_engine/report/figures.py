"""Arrays -> the PNG files under `figures/` of a run folder that the report lays out, by NumPy and Pillow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfda_engine.files import whole_file

LONG_SIDE = (
    320,
    640,
)  # pixels, smallest and largest: readable on a page, and a page that still fits in a mail
EASY, HARD = (22, 163, 74), (220, 38, 38)
TINT = 0.35

Palette = Sequence[Sequence[int]]
UInt8 = NDArray[np.uint8]


def save_frame(
    folder: Path,
    name: str,
    *,
    image: UInt8,
    source: UInt8,
    adapted: UInt8,
    palette: Palette,
    label: UInt8 | None = None,
    entropy: NDArray[np.floating] | None = None,
    easy: NDArray[np.bool_] | None = None,
) -> None:
    """Write one target frame as `figures/frames/<nn>_<name>_<cell>.png`; a name saved before is overwritten.

    folder: the run folder. image: (H, W, 3) uint8. source, adapted, label: (H, W) uint8 ids, 255 = ignored.
    palette: K rows of RGB, 0 to 255. entropy: (H, W) in nats. easy: (G, G) bool, True for an easy patch.
    Raises ValueError where a map does not have the frame's height and width.
    """
    height_width = image.shape[:2]
    for what, array in {"source": source, "adapted": adapted, "label": label, "entropy": entropy}.items():
        if array is not None and array.shape != height_width:
            raise ValueError(f"{what} of frame {name!r} is {array.shape}, the frame itself is {height_width}")
    cells = {
        "frame": _fit(Image.fromarray(image), Image.Resampling.BILINEAR),
        "source": color_labels(source, palette),
        "adapted": color_labels(adapted, palette),
    }
    if label is not None:
        cells["label"] = color_labels(label, palette)
    if entropy is not None:
        cells["entropy"] = heat_map(entropy, classes=len(palette))
    if easy is not None:
        cells["patches"] = tint_patches(image, easy)
    frames = folder / "figures" / "frames"
    stem = _frame_stem(frames, name)
    for cell, picture in cells.items():
        _save(picture, frames / f"{stem}_{cell}.png")


def save_synthetic(folder: Path, images: UInt8, predictions: UInt8, palette: Palette) -> None:
    """Write `figures/synthetic_<nn>_{image,prediction}.png` of uint8 (M, h, w, 3) and class ids (M, h, w)."""
    if images.shape[:3] != predictions.shape:
        raise ValueError(f"synthetic images {images.shape} and predictions {predictions.shape} do not match")
    for index, (image, prediction) in enumerate(zip(images, predictions, strict=True)):
        stem = folder / "figures" / f"synthetic_{index:02d}"
        photo = _fit(Image.fromarray(image), Image.Resampling.BILINEAR)
        _save(photo, stem.with_name(f"{stem.name}_image.png"))
        _save(color_labels(prediction, palette), stem.with_name(f"{stem.name}_prediction.png"))


def color_labels(labels: UInt8, palette: Palette) -> Image.Image:
    """Class ids (H, W) uint8 -> palette image, scaled by nearest; ids outside the palette (255) are black."""
    colors = np.zeros((256, 3), dtype=np.uint8)
    colors[: len(palette)] = np.asarray(palette, dtype=np.uint8).reshape(-1, 3)
    image = Image.fromarray(labels)
    image.putpalette(colors.tobytes())
    return _fit(image, Image.Resampling.NEAREST)


def heat_map(entropy: NDArray[np.floating], *, classes: int) -> Image.Image:
    """Entropy (H, W) in nats -> magma heat map: black at 0, light yellow at log(classes), its maximum."""
    share = np.clip(entropy / np.log(max(classes, 2)), 0.0, 1.0)
    colors = matplotlib.colormaps["magma"](share, bytes=True)[..., :3]
    return _fit(Image.fromarray(np.ascontiguousarray(colors)), Image.Resampling.BILINEAR)


def tint_patches(image: UInt8, easy: NDArray[np.bool_]) -> Image.Image:
    """The photo (H, W, 3) under the grid of torch.tensor_split: easy patches green, hard ones red."""
    photo = _fit(Image.fromarray(image), Image.Resampling.BILINEAR)
    pixels = np.asarray(photo, dtype=np.float32).copy()
    rows = patch_borders(image.shape[0], easy.shape[0]) * photo.height / image.shape[0]
    columns = patch_borders(image.shape[1], easy.shape[1]) * photo.width / image.shape[1]
    rows, columns = np.rint(rows).astype(int), np.rint(columns).astype(int)
    for (i, j), is_easy in np.ndenumerate(easy):
        patch = pixels[rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
        patch *= 1 - TINT
        patch += TINT * np.array(EASY if is_easy else HARD, dtype=np.float32)
    pixels[rows[1:-1]] = 255
    pixels[:, columns[1:-1]] = 255
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def patch_borders(length: int, grid: int) -> NDArray[np.int64]:
    """The grid + 1 borders of `torch.tensor_split`: the first patches take the remainder."""
    sizes = [len(part) for part in np.array_split(np.arange(length), grid)]
    return np.concatenate([[0], np.cumsum(sizes)])


def _fit(image: Image.Image, resample: Image.Resampling) -> Image.Image:
    """Scale so that the long side lies within LONG_SIDE; the shape is kept."""
    long_side = max(image.size)
    scale = min(max(long_side, LONG_SIDE[0]), LONG_SIDE[1]) / long_side
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if size == image.size else image.resize(size, resample)


def _frame_stem(frames: Path, name: str) -> str:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "frame"
    taken = sorted(path.name.removesuffix("_frame.png") for path in frames.glob("*_frame.png"))
    for stem in taken:
        if stem.partition("_")[2] == safe:
            return stem
    return f"{len(taken):02d}_{safe}"


def _save(image: Image.Image, path: Path) -> None:
    with whole_file(path) as partial:
        image.save(partial, format="PNG")
