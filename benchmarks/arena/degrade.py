"""Targets made worse as cameras and weather make them, by albumentations (Buslaev et al., 2020): `.[arena]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from sfda_engine.data.frame_sample import spread

Kind = Literal["dark", "noise", "defocus", "fog", "jpeg"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST = 96
"""Frames of a degraded target, spread over those of the original."""


def transform(kind: Kind) -> Any:
    """What degrades RGB frames (H, W, 3) uint8, called as `transform(kind)(image=frame)["image"]`; seeded."""
    import albumentations

    made = {
        "dark": lambda: albumentations.RandomGamma(gamma_limit=(250, 250), p=1),
        "noise": lambda: albumentations.ISONoise(color_shift=(0.05, 0.05), intensity=(0.6, 0.6), p=1),
        "defocus": lambda: albumentations.Defocus(radius=(3, 3), alias_blur=(0.1, 0.1), p=1),
        "fog": lambda: albumentations.RandomFog(fog_coef_range=(0.5, 0.5), p=1),
        "jpeg": lambda: albumentations.ImageCompression(quality_range=(10, 10), p=1),
    }
    return albumentations.Compose([made[kind]()], seed=0)


def degrade(root: Path, kind: Kind, folder: Path) -> Path:
    """Write degraded frames of `root` (or its `images`) as `folder/images/NAME.png`, their labels linked beside them.

    Returns `folder`. Labels, where there are any in `root/labels`, stay as they are.
    """
    frames, labels = (root / "images" if (root / "images").is_dir() else root), root / "labels"
    files = sorted(path for path in frames.iterdir() if path.is_file())
    degraded = transform(kind)
    for name in ("images", *(["labels"] if labels.is_dir() else [])):
        (folder / name).mkdir(parents=True)
    for path in (files[index] for index in spread(len(files), MOST)):
        with Image.open(path) as image:
            frame = degraded(image=np.asarray(image.convert("RGB")))["image"]
        Image.fromarray(frame).save(folder / "images" / f"{path.stem}.png")
        label = labels / f"{path.stem}.png"
        if label.exists():
            (folder / "labels" / label.name).symlink_to(label.resolve())
    return folder
