"""SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016): 9,400 rendered frames; 16 of the 19 Cityscapes classes occur.

Labels are 16-bit RGB PNGs, class in the first channel, instance in the second; ids from its README.txt, as in
lhoyer/DAFormer, tools/convert_datasets/synthia.py. There is no official split: `val` is the last 400 frames, as in
ZJULearning/MaxSquareLoss, datasets/synthia_list.
"""

from __future__ import annotations

from pathlib import Path

from sfda_engine.data.images import ImageSize
from sfda_engine.data.published.label_formats import instance_format
from sfda_engine.data.published.layout import LabelRule, Layout

FIRST_OF_VAL = "0009000"


def find(root: Path, split: str) -> list[Path]:
    return [path for path in root.glob("RGB/*.png") if (path.stem >= FIRST_OF_VAL) == (split == "val")]


LAYOUT = Layout(
    name="synthia",
    classes="synthia16",
    expects="RGB/0000000.png to 0009399.png and GT/LABELS/ with the same names (the folder RAND_CITYSCAPES)",
    marks=("RGB/[0-9][0-9][0-9][0-9][0-9][0-9][0-9].png", "GT/LABELS"),
    splits={"train": 9000, "val": 400},
    labelled={"train": 9000, "val": 400},
    unions={"all": ("train", "val")},
    find=find,
    rules=(
        LabelRule("RGB", "GT/LABELS", (".png",), ".png", instance_format("synthia", "SYNTHIA ids (0..22), 16 bits")),
    ),
    size=ImageSize(1280, 760),
)
