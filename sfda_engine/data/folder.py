"""Frames and labels from plain folders: images under `root` or `root/images`, labels under `root/labels`."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from sfda_engine.data.frame_files import FrameFiles
from sfda_engine.data.images import DECODING_ERRORS, IMAGE_SUFFIXES, decode_label, decode_rgb
from sfda_engine.errors import UserError

log = logging.getLogger(__name__)
IGNORE = 255


def list_images(root: str | Path, *, limit: int | None = None) -> list[Path]:
    """Sorted JPEG and PNG files of `root/images` (any depth) or, where that is absent, of `root` itself.

    Raises UserError where the folder is missing or holds no image.
    """
    root = Path(root).expanduser()
    if root.is_file():
        raise UserError(f"{root} is a file; name its folder of JPEG or PNG frames")
    if not root.is_dir():
        raise UserError(f"image folder {root} does not exist; give an existing folder of JPEG or PNG frames")
    nested = root / "images"
    files = nested.rglob("*") if nested.is_dir() else root.iterdir()
    found = sorted(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not found:
        raise UserError(f"no JPEG or PNG image in {nested if nested.is_dir() else root}; check the path")
    return found[:limit]


CORRUPT_SHARE = 0.05
"""Of the target frames, at most this much is skipped, with a warning."""


def drop_corrupt(paths: list[Path], *, max_share: float = CORRUPT_SHARE) -> list[Path]:
    """Decode every file once and leave out the corrupt ones, each with a warning.

    Raises UserError where more than `max_share` (0..1) of the files are corrupt, or all of them.
    """
    with ThreadPoolExecutor(max_workers=4) as pool:
        faults = list(pool.map(_fault, paths))
    bad = [(path, fault) for path, fault in zip(paths, faults, strict=True) if fault]
    for path, fault in bad:
        log.warning("skipped corrupt image %s (%s)", path, fault)
    if len(bad) > max_share * len(paths) or len(bad) == len(paths):
        named = ", ".join(str(path) for path, _ in bad[:3])
        raise UserError(
            f"{len(bad)} of {len(paths)} images cannot be decoded (at most {max_share:.0%} are tolerated), "
            f"first: {named} ({bad[0][1]}); repair or remove them"
        )
    return [path for path, fault in zip(paths, faults, strict=True) if not fault]


def _fault(path: Path) -> str:
    try:
        decode_rgb(path)
    except DECODING_ERRORS as error:
        return str(error) or type(error).__name__
    return ""


class FolderLabelled(FrameFiles):
    """Frames with labels of the same stem (`root/labels/<stem>.png`): train ids below `num_classes`, 255 ignored.

    Raises UserError where the label folder or a label is missing or a stem is not unique, and from `label` where
    one has a wrong value.
    """

    def __init__(self, root: str | Path, *, num_classes: int, limit: int | None = None) -> None:
        super().__init__(drop_corrupt(list_images(root, limit=limit), max_share=0.0))
        self.num_classes = num_classes
        labels = Path(root).expanduser() / "labels"
        if not labels.is_dir():
            raise UserError(f"no label folder {labels}; evaluation needs labels/<stem>.png beside images/")
        by_stem = _by_stem(sorted(labels.rglob("*.png")))
        missing = [stem for stem in _by_stem(self.paths) if stem not in by_stem]
        if missing:
            raise UserError(f"{len(missing)} images have no label in {labels}, first: {missing[0]}.png")
        self.label_paths = [by_stem[path.stem] for path in self.paths]

    def label(self, index: int) -> Image.Image:
        path = self.label_paths[index]
        label = decode_label(path)
        present = np.bincount(np.asarray(label).ravel(), minlength=256)
        wrong = np.flatnonzero(present[self.num_classes : IGNORE]) + self.num_classes
        if len(wrong):
            raise UserError(
                f"label {path} holds the value {wrong[0]}, but the model has {self.num_classes} classes "
                f"(train ids 0..{self.num_classes - 1}, {IGNORE} = ignore); map the labels to train ids"
            )
        return label


def check_labels_there(root: Path, *, limit: int | None = None) -> None:
    """UserError where `FolderLabelled` would miss a label of these frames; asks for files by name, lists no labels.

    Labels in folders of their own, of other names than the frames', cannot be found so: they pass.
    """
    labels, images = root / "labels", root / "images" if (root / "images").is_dir() else root
    frames = list_images(root, limit=limit)
    missing = [stem for stem, path in _by_stem(frames).items() if not _label_beside(labels, path.relative_to(images))]
    # two links: its own and one from above; each folder inside adds one, and some file systems do not count
    folders = labels.stat().st_nlink != 2
    if missing and not (folders and len(missing) == len(frames)):
        raise UserError(
            f"{len(missing)} of {len(frames)} images have no label in {labels}, first: {missing[0]}.png; give every "
            "image one of its stem, take the image away, or leave section evaluate out to run without labels"
        )


def _label_beside(labels: Path, frame: Path) -> bool:
    """Whether labels/<stem>.png is there, or in the folders that the frame (relative to images/) lies in."""
    name = Path(f"{frame.stem}.png")
    return any((labels / Path(*frame.parent.parts[at:]) / name).is_file() for at in range(len(frame.parts)))


def _by_stem(paths: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise UserError(
                f"two files have the stem {path.stem}, {found[path.stem]} and {path}: frames and labels are paired "
                "by their stems; rename one of them"
            )
        found[path.stem] = path
    return found
