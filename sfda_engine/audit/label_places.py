"""Where labels and source data lie, by path alone: what a run of `adapt` is closed to. Nothing here opens a file."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from sfda_engine.config.schema import EvaluateConfig, SourceConfig, TargetConfig
from sfda_engine.data.datasets import LAYOUTS, frames_folder
from sfda_engine.data.folder import list_images
from sfda_engine.data.published.layout import frames_of
from sfda_engine.errors import UserError

log = logging.getLogger(__name__)


def label_folders(section: TargetConfig | EvaluateConfig | SourceConfig) -> list[Path]:
    """Every folder in which labels of these frames may lie, whether it exists or not; none for scenes."""
    if section.root is None or section.dataset == "scenes":
        return []
    root = Path(section.root).expanduser()
    if section.dataset in LAYOUTS:
        rules = LAYOUTS[section.dataset].rules
        frames = {Path(rule.frames) for rule in rules}
        return sorted({root / _without_frames(Path(rule.labels), frames) for rule in rules})
    return [root / (section.split or "") / "labels"]


def check_target_place(target: TargetConfig, evaluate: EvaluateConfig | None) -> None:
    """UserError where the target's frames would be the labels that `evaluate` scores; a warning where the name says so.

    Looks at paths alone, before the wall, which would take it for a leak.
    """
    if target.root is None or target.dataset != "folder":
        return
    folder = Path(target.root).expanduser() / (target.split or "")
    frames = Path(os.path.realpath(_image_folder(folder)))
    closed = [] if evaluate is None else [Path(os.path.realpath(path)) for path in label_folders(evaluate)]
    if any(frames.is_relative_to(path) for path in closed):
        raise UserError(f"target.root {folder} is the label folder of section evaluate: name the folder of the frames")
    if folder.name == "labels":
        log.warning("target.root %s looks like a folder of labels: adaptation needs the frames", folder)


def source_folders(source: SourceConfig | None) -> list[Path]:
    """The folders of source frames and of their labels, for training and for validation; none for scenes."""
    if source is None or source.root is None or source.dataset == "scenes":
        return []
    root = Path(source.root).expanduser()
    if source.dataset in LAYOUTS:
        frames = {root / rule.frames for rule in LAYOUTS[source.dataset].rules}
        return sorted(frames | set(label_folders(source)))
    trained = root / (source.split or "")
    validated = Path(source.val_root or source.root).expanduser() / (source.val_split or "")
    both = (trained, validated) if source.val_root or source.val_split else (trained,)
    return sorted({place for folder in both for place in (_image_folder(folder), folder / "labels")})


def scored_frames(section: EvaluateConfig) -> list[Path]:
    """The frames that `evaluate` scores; lists folders, opens no file. Raises UserError where there is none."""
    if section.root is None or section.dataset == "scenes":
        return []
    root = Path(section.root).expanduser()
    if section.dataset in LAYOUTS:
        return frames_of(LAYOUTS[section.dataset], root, section.split, labelled=True)
    return list_images(frames_folder(section.root, section.split, "evaluate"))


def scored_files(section: EvaluateConfig) -> set[Path]:
    """The frames that `evaluate` scores and every file that may be a label of theirs; lists folders, opens no file.

    Raises UserError where there is no frame.
    """
    if section.root is None or section.dataset == "scenes":
        return set()
    root, frames = Path(section.root).expanduser(), scored_frames(section)
    if section.dataset in LAYOUTS:
        found = (rule.label_of(root, frame) for frame in frames for rule in LAYOUTS[section.dataset].rules)
        return {*frames, *(label for label in found if label is not None)}
    labels = root / (section.split or "") / "labels"
    return {*frames, labels, *labels.rglob("*")}


def _without_frames(labels: Path, frames: set[Path]) -> Path:
    """The widest folder around a label folder that holds no frames: GT of GT/LABELS, where colored labels lie too."""
    around = [
        parent for parent in labels.parents if parent != Path() and not any(parent in one.parents for one in frames)
    ]
    return around[-1] if around else labels


def _image_folder(folder: Path) -> Path:
    nested = folder / "images"
    return nested if nested.is_dir() else folder
