"""GTA5, "Playing for Data" (Richter et al., ECCV 2016): 24,966 frames of a game; adaptation trains on all of them.

Labels are palette PNGs whose indices are Cityscapes ids, 34 = license plate. The official split (12,403 / 6,382 /
6,181) is `maps/gta5_splits.csv`, runs of the lists in ZJULearning/MaxSquareLoss, datasets/gta5_list.
"""

from __future__ import annotations

from pathlib import Path

from sfda_engine.data.published.label_formats import id_format
from sfda_engine.data.published.layout import LabelRule, Layout, split_of


def find(root: Path, split: str) -> list[Path]:
    return [path for path in root.glob("images/*.png") if split_of("gta5_splits", path.stem) == split]


LAYOUT = Layout(
    name="gta5",
    classes="cityscapes",
    expects="images/00001.png to 24966.png and labels/ with the same names (ten archives each)",
    marks=("images/[0-9][0-9][0-9][0-9][0-9].png",),
    splits={"train": 12403, "val": 6382, "test": 6181},
    labelled={"train": 12403, "val": 6382, "test": 6181},
    unions={"all": ("train", "val", "test")},
    find=find,
    rules=(LabelRule("images", "labels", (".png",), ".png", id_format("gta5", "GTA5 label ids (0..34)")),),
    # label and frame differ in size: left out by everyone who checks
    unusable=frozenset({"15188", "17705"}),
    # the last ones of five archives, missing from some downloads of the labels: bupt-ai-cz/IAST-ECCV2020, issue 2
    unpaired=frozenset(
        f"{first + i:05d}"
        for first, count in ((2154, 5), (4634, 4), (7115, 5), (9683, 6), (12050, 5))
        for i in range(count)
    ),
)
