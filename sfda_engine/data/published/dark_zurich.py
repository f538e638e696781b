"""Dark Zurich (Sakaridis et al., ICCV 2019): 2,416 frames by night without labels, 50 with; day and twilight besides.

Layout: rgb_anon/<split>/<time>/<sequence> with gt/val/night, as in lhoyer/DAFormer, README.md, and open-mmlab's
configs/_base_/datasets/dark_zurich.py. The 151 labels of the test split are withheld.
"""

from __future__ import annotations

from pathlib import Path

from sfda_engine.data.images import ImageSize
from sfda_engine.data.published.label_formats import CITYSCAPES_IDS, TRAIN_IDS
from sfda_engine.data.published.layout import LabelRule, Layout


def find(root: Path, split: str) -> list[Path]:
    return list(root.glob(f"rgb_anon/{split}/*/*_rgb_anon.png"))


LAYOUT = Layout(
    name="dark_zurich",
    classes="cityscapes",
    expects="rgb_anon/train/night/<sequence>/*_rgb_anon.png and gt/val/night/<sequence>/*_gt_labelTrainIds.png",
    marks=("rgb_anon/*/night", "rgb_anon/*/twilight"),
    splits={"train/night": 2416, "train/twilight": 2920, "train/day": 3041, "val/night": 50, "test/night": 151},
    labelled={"val/night": 50},
    find=find,
    rules=(
        LabelRule("rgb_anon", "gt", ("_rgb_anon.png",), "_gt_labelTrainIds.png", TRAIN_IDS),
        LabelRule("rgb_anon", "gt", ("_rgb_anon.png",), "_gt_labelIds.png", CITYSCAPES_IDS),
    ),
    size=ImageSize(1920, 1080),
)
