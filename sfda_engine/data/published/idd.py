"""IDD, India Driving Dataset (Varma et al., WACV 2019): Cityscapes-like folders, numbered drives, PNG or JPEG frames.

Labels have to be made from its polygons: `createLabels.py --id-type csTrainId` (or `id`) of AutoNUE/public-code, whose
helpers/anue_labels.py gives the classes. Its own level-3 ids merge classes that Cityscapes keeps apart, so they are
not read. Part I and the 20k release differ in their number of frames.
"""

from __future__ import annotations

from pathlib import Path

from sfda_engine.data.published.label_formats import TRAIN_IDS, id_format
from sfda_engine.data.published.layout import LabelRule, Layout

ENDS = ("_leftImg8bit.png", "_leftImg8bit.jpg")


def find(root: Path, split: str) -> list[Path]:
    return [path for end in ENDS for path in root.glob(f"leftImg8bit/{split}/*/*{end}")]


LAYOUT = Layout(
    name="idd",
    classes="cityscapes",
    expects="leftImg8bit/<split>/<drive>/*_leftImg8bit.png and gtFine/<split>/<drive>/*_gtFine_labelcsTrainIds.png, "
    "made by AutoNUE/public-code: createLabels.py --id-type csTrainId",
    marks=("leftImg8bit/*/[0-9]*",),
    splits={"train": None, "val": None, "test": None},
    labelled={"train": None, "val": None},
    find=find,
    rules=(
        LabelRule("leftImg8bit", "gtFine", ENDS, "_gtFine_labelcsTrainIds.png", TRAIN_IDS),
        LabelRule("leftImg8bit", "gtFine", ENDS, "_gtFine_labelids.png", id_format("idd", "IDD ids (0..39)")),
    ),
)
