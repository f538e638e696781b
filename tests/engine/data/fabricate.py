"""Miniature published data sets in their real layout, quirks included, filled with procedural scenes.

Raw label values are written down here once more, apart from `data/published/maps`, so that a test compares the two.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfda_engine.data.images import ImageSize
from sfda_engine.data.scenes.render import Scene, render_scene

SIZE = ImageSize(48, 32)
Array = NDArray[np.uint8]

# Raw value of the nine scene classes (road sidewalk building pole sign vegetation sky person car) and of the rest.
RAW = {
    "cityscapes": ((7, 8, 11, 17, 20, 21, 23, 24, 26), 3),
    "gta5": ((7, 8, 11, 17, 20, 21, 23, 24, 26), 34),
    "synthia": ((3, 4, 2, 7, 9, 6, 1, 10, 8), 22),
    "train ids": ((0, 1, 2, 5, 7, 8, 10, 11, 13), 255),
    "idd": ((0, 3, 29, 26, 24, 32, 33, 6, 12), 11),
    "camvid": ((3, 4, 1, 2, 6, 5, 0, 9, 8), 11),
}
# LaneMkgsDriv Sidewalk Building Column_Pole TrafficLight Tree Sky Child SUVPickupTruck, Void
CAMVID_COLORS = (
    (128, 0, 192),
    (0, 0, 192),
    (128, 0, 0),
    (192, 192, 128),
    (0, 64, 64),
    (128, 128, 0),
    (128, 128, 128),
    (192, 128, 64),
    (64, 128, 192),
    (0, 0, 0),
)


class Scenes:
    """Frames in the order in which a builder asks for them; `made` remembers each by its path."""

    def __init__(self, domain: str, size: tuple[int, int]) -> None:
        self.domain, self.size, self.seeds = domain, size, count()
        self.made: dict[Path, Scene] = {}

    def frame(self, path: Path, size: tuple[int, int] | None = None) -> Scene:
        scene = render_scene(self.domain, next(self.seeds), size or self.size)
        # a bonnet, so that some pixels are ignored
        scene.label[-3:, :9] = 255
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(path)
        self.made[path] = scene
        return scene


def raw_values(scene: Scene, kind: str) -> Array:
    """The label of a scene in the values of one data set."""
    known, rest = RAW[kind]
    table = np.full(256, rest, np.uint8)
    table[: len(known)] = known
    return table[scene.label]


def save(path: Path, values: Array, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if palette:
        image = image.convert("P")
        image.putdata(values.ravel().tolist())
        image.putpalette([channel for value in range(256) for channel in (value, 255 - value, 7)])
    image.save(path)


def save_16_bits(path: Path, channels: NDArray[np.uint16]) -> None:
    """A 16-bit RGB PNG (H, W, 3), which Pillow cannot write: PNG specification, sections 5 and 9."""
    height, width, _ = channels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in channels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path.parent.mkdir(parents=True, exist_ok=True)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def cityscapes(root: Path, scenes: Scenes, frames: int) -> None:
    for split, city in (("train", "aachen"), ("train", "zurich"), ("val", "lindau"), ("test", "berlin")):
        for i in range(frames):
            stem = f"{city}_{i:06d}_000019"
            scene = scenes.frame(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
            labels = root / "gtFine" / split / city / f"{stem}_gtFine"
            save(Path(f"{labels}_labelIds.png"), raw_values(scene, "cityscapes"))
            save(Path(f"{labels}_instanceIds.png"), scene.label)
            save(Path(f"{labels}_color.png"), scene.image)
            Path(f"{labels}_polygons.json").write_text("{}")


def gta5(root: Path, scenes: Scenes, frames: int) -> None:
    """Palette labels, several heights; 15188 misfits its label, 02158 has none; a conversion of DAFormer's is left."""
    width, height = scenes.size
    numbers = [first + i for first in (1, 22, 11) for i in range(frames)]
    for number in (*numbers, 2158, 15188):
        size = (width, height + 2 * (number % 2))
        scene = scenes.frame(root / "images" / f"{number:05d}.png", size)
        if number == 2158:
            continue
        values = raw_values(scene, "gta5")
        save(root / "labels" / f"{number:05d}.png", values[:-2] if number == 15188 else values, palette=True)
    save(root / "labels" / "00001_labelTrainIds.png", raw_values(scene, "train ids"))


def synthia(root: Path, scenes: Scenes, frames: int) -> None:
    for number in (*range(frames), *range(9000, 9000 + frames)):
        scene = scenes.frame(root / "RGB" / f"{number:07d}.png")
        values = raw_values(scene, "synthia").astype(np.uint16)
        instances = np.full_like(values, 700)
        save_16_bits(root / "GT" / "LABELS" / f"{number:07d}.png", np.dstack([values, instances, instances]))
        save(root / "GT" / "COLOR" / f"{number:07d}.png", scene.image)


def crosscity(root: Path, scenes: Scenes, frames: int) -> None:
    for city in ("Rome", "Rio", "Tokyo", "Taipei"):
        end = ".jpg" if city == "Rio" else ".png"
        for i in range(frames):
            scenes.frame(root / city / "Images" / "Train" / f"pano_{i:05d}_0_180{end}")
        for i in range(frames):
            scene = scenes.frame(root / city / "Images" / "Test" / f"pano_{i:05d}_2_0{end}")
            save(root / city / "Labels" / "Test" / f"pano_{i:05d}_2_0_eval.png", raw_values(scene, "cityscapes"))


def camvid(root: Path, scenes: Scenes, frames: int) -> None:
    for split, first in (("train", 6690), ("val", 7959), ("test", 8550)):
        sequence = "0016E5" if split == "val" else "0001TP"
        for i in range(frames):
            stem = f"{sequence}_{first + 30 * i:06d}"
            scene = scenes.frame(root / split / f"{stem}.png")
            save(root / f"{split}annot" / f"{stem}.png", raw_values(scene, "camvid"))


def camvid_original(root: Path, scenes: Scenes, frames: int) -> None:
    for first in ("0001TP_006690", "0016E5_07959", "Seq05VD_f00000"):
        sequence, number = first.rsplit("_", 1)
        for i in range(frames):
            prefix, digits = ("f", number[1:]) if number.startswith("f") else ("", number)
            stem = f"{sequence}_{prefix}{int(digits) + i:0{len(digits)}d}"
            scene = scenes.frame(root / "701_StillsRaw_full" / f"{stem}.png")
            colors = np.array(CAMVID_COLORS, np.uint8)[np.minimum(scene.label, 9)]
            save(root / "LabeledApproved_full" / f"{stem}_L.png", colors)


def bdd100k(root: Path, scenes: Scenes, frames: int) -> None:
    for split in ("train", "val", "test"):
        for i in range(frames):
            stem = f"0a{i:06x}-{split}"
            scene = scenes.frame(root / "images" / "10k" / split / f"{stem}.jpg")
            if split != "test":
                masks = root / "labels" / "sem_seg" / "masks" / split
                save(masks / f"{stem}.png", raw_values(scene, "train ids"))


def bdd100k_old(root: Path, scenes: Scenes, frames: int) -> None:
    for split in ("train", "val"):
        for i in range(frames):
            stem = f"0a{i:06x}-{split}"
            scene = scenes.frame(root / "seg" / "images" / split / f"{stem}.jpg")
            save(root / "seg" / "labels" / split / f"{stem}_train_id.png", raw_values(scene, "train ids"))


def acdc(root: Path, scenes: Scenes, frames: int) -> None:
    """With the reference frames of good weather, which belong to no split."""
    for condition in ("fog", "night", "rain", "snow"):
        for split in ("train", "val", "test"):
            for i in range(frames):
                place, stem = Path(condition) / split / "GOPR0475", f"GOPR0475_frame_{i:06d}"
                scene = scenes.frame(root / "rgb_anon" / place / f"{stem}_rgb_anon.png")
                if split != "test":
                    save(root / "gt" / place / f"{stem}_gt_labelTrainIds.png", raw_values(scene, "train ids"))
                    save(root / "gt" / place / f"{stem}_gt_labelIds.png", raw_values(scene, "cityscapes"))
        reference = root / "rgb_anon" / condition / "train_ref" / "GOPR0475" / "GOPR0475_frame_000000_rgb_ref_anon.png"
        save(reference, np.zeros((*scenes.size[::-1], 3), np.uint8))


def dark_zurich(root: Path, scenes: Scenes, frames: int) -> None:
    for split in ("train/night", "train/twilight", "train/day", "val/night", "test/night"):
        for i in range(frames):
            place, stem = Path(split) / "GOPR0356", f"GOPR0356_frame_{i:06d}"
            scene = scenes.frame(root / "rgb_anon" / place / f"{stem}_rgb_anon.png")
            if split == "val/night":
                save(root / "gt" / place / f"{stem}_gt_labelTrainIds.png", raw_values(scene, "train ids"))


def idd(root: Path, scenes: Scenes, frames: int) -> None:
    """PNG in training, JPEG in validation, as its two parts; one kind of label each."""
    for split, drive, end, kind, name in (
        ("train", "0", ".png", "train ids", "labelcsTrainIds"),
        ("val", "201", ".jpg", "idd", "labelids"),
    ):
        for i in range(frames):
            scene = scenes.frame(root / "leftImg8bit" / split / drive / f"{i:04d}_leftImg8bit{end}")
            labels = root / "gtFine" / split / drive
            save(labels / f"{i:04d}_gtFine_{name}.png", raw_values(scene, kind))
            (labels / f"{i:04d}_gtFine_polygons.json").write_text("{}")


Builder = Callable[[Path, Scenes, int], None]
BUILDERS: dict[str, Builder] = {
    builder.__name__: builder
    for builder in (
        cityscapes,
        gta5,
        synthia,
        crosscity,
        camvid,
        camvid_original,
        bdd100k,
        bdd100k_old,
        acdc,
        dark_zurich,
        idd,
    )
}


def fabricate(
    kind: str, root: Path, *, frames: int = 2, domain: str = "day", size: tuple[int, int] = SIZE
) -> dict[Path, Scene]:
    """Fill `root` with `frames` frames a split (and city, condition) of a data set; the scene of each frame's path."""
    scenes = Scenes(domain, size)
    BUILDERS[kind](root, scenes, frames)
    return scenes.made
