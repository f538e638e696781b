"""BDD100K semantic segmentation (Yu et al., CVPR 2020): 7,000 / 1,000 / 2,000 frames of 1280x720, Cityscapes classes.

Labels are train ids. Two layouts: images/10k with labels/sem_seg/masks (bdd100k/bdd100k, doc/source/download.rst), and
the older seg/images with seg/labels/*_train_id.png.
"""

from __future__ import annotations

from pathlib import Path

from sfda_engine.data.images import ImageSize
from sfda_engine.data.published.label_formats import TRAIN_IDS
from sfda_engine.data.published.layout import LabelRule, Layout

FOLDERS = ("images/10k", "seg/images")


def find(root: Path, split: str) -> list[Path]:
    return next((list(root.glob(f"{folder}/{split}/*.jpg")) for folder in FOLDERS if (root / folder).is_dir()), [])


LAYOUT = Layout(
    name="bdd100k",
    classes="cityscapes",
    expects="images/10k/<split>/*.jpg and labels/sem_seg/masks/<split>/*.png",
    marks=FOLDERS,
    splits={"train": 7000, "val": 1000, "test": 2000},
    labelled={"train": 7000, "val": 1000},
    find=find,
    rules=(
        LabelRule("images/10k", "labels/sem_seg/masks", (".jpg",), ".png", TRAIN_IDS),
        LabelRule("seg/images", "seg/labels", (".jpg",), "_train_id.png", TRAIN_IDS),
    ),
    size=ImageSize(1280, 720),
)
