"""ACDC (Sakaridis et al., ICCV 2021): fog, night, rain and snow, each 400 / 100 (night 106) / 500 frames of 1920x1080.

Splits are those of one condition (`night/train`) or of all four (`train`). Layout: rgb_anon/<condition>/<split>/
<sequence>, as in lhoyer/DAFormer, README.md and mmseg/datasets/acdc.py. Test labels are withheld.
"""

from __future__ import annotations

from pathlib import Path

from sfda_engine.data.images import ImageSize
from sfda_engine.data.published.label_formats import CITYSCAPES_IDS, TRAIN_IDS
from sfda_engine.data.published.layout import LabelRule, Layout

CONDITIONS = ("fog", "night", "rain", "snow")
LABELLED = {f"{condition}/train": 400 for condition in CONDITIONS} | {
    f"{condition}/val": 106 if condition == "night" else 100 for condition in CONDITIONS
}


def find(root: Path, split: str) -> list[Path]:
    return list(root.glob(f"rgb_anon/{split}/*/*_rgb_anon.png"))


LAYOUT = Layout(
    name="acdc",
    classes="cityscapes",
    expects="rgb_anon/<condition>/<split>/<sequence>/*_rgb_anon.png and gt/ likewise, *_gt_labelTrainIds.png",
    marks=tuple(f"rgb_anon/{condition}" for condition in CONDITIONS),
    splits=LABELLED | {f"{condition}/test": 500 for condition in CONDITIONS},
    labelled=LABELLED,
    unions={split: tuple(f"{condition}/{split}" for condition in CONDITIONS) for split in ("train", "val", "test")},
    find=find,
    rules=(
        LabelRule("rgb_anon", "gt", ("_rgb_anon.png",), "_gt_labelTrainIds.png", TRAIN_IDS),
        LabelRule("rgb_anon", "gt", ("_rgb_anon.png",), "_gt_labelIds.png", CITYSCAPES_IDS),
    ),
    size=ImageSize(1920, 1080),
)
