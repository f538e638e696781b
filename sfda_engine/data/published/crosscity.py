"""NTHU Cross-City (Chen et al., ICCV 2017): Rome, Rio, Tokyo, Taipei, each 3,200 frames without and 100 with labels.

A city is a split: `target` opens its Images/Train, `evaluate` its Images/Test. Labels hold Cityscapes ids, of which 13
classes are annotated. Layout and lists: ZJULearning/MaxSquareLoss, datasets/crosscity_Dataset.py and NTHU_list.
"""

from __future__ import annotations

from pathlib import Path

from sfda_engine.data.images import ImageSize
from sfda_engine.data.published.label_formats import id_format
from sfda_engine.data.published.layout import LabelRule, Layout

CITIES = ("Rome", "Rio", "Tokyo", "Taipei")
ENDS = (".png", ".jpg")
FORMAT = id_format("crosscity", "Cityscapes label ids (0..33) of 13 classes")


def find(root: Path, city: str) -> list[Path]:
    return _images(root / city / "Images" / "Train")


def find_labelled(root: Path, city: str) -> list[Path]:
    return _images(root / city / "Images" / "Test")


def _images(folder: Path) -> list[Path]:
    return [path for end in ENDS for path in folder.glob(f"*{end}")]


LAYOUT = Layout(
    name="crosscity",
    classes="cityscapes13",
    expects="<City>/Images/Train, <City>/Images/Test and <City>/Labels/Test/*_eval.png",
    marks=tuple(f"{city}/Images" for city in CITIES),
    splits=dict.fromkeys(CITIES, 3200),
    labelled=dict.fromkeys(CITIES, 100),
    find=find,
    find_labelled=find_labelled,
    rules=tuple(LabelRule(f"{city}/Images", f"{city}/Labels", ENDS, "_eval.png", FORMAT) for city in CITIES),
    size=ImageSize(2048, 1024),
)
