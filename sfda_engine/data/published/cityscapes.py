"""Cityscapes (Cordts et al., CVPR 2016): 2,975 training, 500 validation, 1,525 test frames of 50 cities.

Layout and ids: cityscapesScripts, README and helpers/labels.py. Test labels are dummies, so that split has none here.
"""

from __future__ import annotations

from pathlib import Path

from sfda_engine.data.images import ImageSize
from sfda_engine.data.published.label_formats import CITYSCAPES_IDS, TRAIN_IDS
from sfda_engine.data.published.layout import LabelRule, Layout


def find(root: Path, split: str) -> list[Path]:
    return list(root.glob(f"leftImg8bit/{split}/*/*_leftImg8bit.png"))


LAYOUT = Layout(
    name="cityscapes",
    classes="cityscapes",
    expects="leftImg8bit/<split>/<city>/*_leftImg8bit.png and gtFine/<split>/<city>/*_gtFine_labelIds.png",
    marks=("leftImg8bit/*/[a-z]*",),
    splits={"train": 2975, "val": 500, "test": 1525},
    labelled={"train": 2975, "val": 500},
    find=find,
    rules=(
        LabelRule("leftImg8bit", "gtFine", ("_leftImg8bit.png",), "_gtFine_labelIds.png", CITYSCAPES_IDS),
        # written by cityscapesScripts/preparation/createTrainIdLabelImgs.py
        LabelRule("leftImg8bit", "gtFine", ("_leftImg8bit.png",), "_gtFine_labelTrainIds.png", TRAIN_IDS),
    ),
    size=ImageSize(2048, 1024),
)
