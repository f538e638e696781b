"""The checked label maps agree with what the data sets' own code, and the code of published results, say."""

from __future__ import annotations

import re
from collections import Counter
from importlib.resources import files

import pytest
from torchvision.datasets import Cityscapes

from sfda_engine.data.classes import class_set, expand_subset
from sfda_engine.data.datasets import LAYOUTS
from sfda_engine.data.published.gta5 import LAYOUT as GTA5
from sfda_engine.data.published.label_formats import read_map
from sfda_engine.data.published.layout import split_of

NINETEEN = class_set("cityscapes").names
FOLDER = files("sfda_engine.data.published") / "maps"
MAPS = sorted(path.name[:-4] for path in FOLDER.iterdir() if "splits" not in path.name)

# lhoyer/DAFormer, tools/convert_datasets/gta.py; wasidennis/AdaptSegNet, dataset/gta5_dataset.py
CITYSCAPES_TO_TRAIN = dict(
    zip((7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33), range(19), strict=True)
)
# lhoyer/DAFormer, tools/convert_datasets/synthia.py
SYNTHIA_TO_TRAIN = {
    **{3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12, 8: 13, 18: 14},
    **{19: 15, 20: 16, 12: 17, 11: 18},
}
# AutoNUE/public-code, helpers/anue_labels.py, column csTrainId
IDD_TO_TRAIN = {
    **{0: 0, 3: 1, 5: 9, 6: 11, 8: 12, 9: 17, 10: 18, 12: 13, 13: 14, 14: 15, 17: 16, 20: 3, 21: 4, 24: 7, 25: 6},
    **{26: 5, 29: 2, 32: 8, 33: 10},
}
# ZJULearning/MaxSquareLoss, datasets/synthia_Dataset.py and crosscity_Dataset.py
SIXTEEN = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
THIRTEEN = (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
CAMVID_GROUPS = {
    "sky": "Sky",
    "building": "Archway Bridge Building Tunnel Wall",
    "pole": "Column_Pole TrafficCone",
    "road": "LaneMkgsDriv LaneMkgsNonDriv Road",
    "sidewalk": "ParkingBlock RoadShoulder Sidewalk",
    "tree": "Tree VegetationMisc",
    "sign": "Misc_Text SignSymbol TrafficLight",
    "fence": "Fence",
    "car": "Car OtherMoving SUVPickupTruck Train Truck_Bus",
    "pedestrian": "Animal CartLuggagePram Child Pedestrian",
    "bicyclist": "Bicyclist MotorcycleScooter",
    "": "Void",
}


def train_ids(name: str) -> dict[int, int]:
    """Raw id -> train id of the 19 classes, of the ids that are not ignored."""
    return {int(row["value"]): NINETEEN.index(row["class"]) for row in read_map(name) if row["class"]}


@pytest.mark.parametrize("name", MAPS)
def test_every_raw_value_is_mapped_or_ignored(name: str) -> None:
    rows = read_map(name)
    values = [row["value"] for row in rows]
    assert len(set(values)) == len(values)
    family = class_set("camvid" if "camvid" in name else "cityscapes").names
    assert {row["class"] for row in rows} <= {*family, ""}
    assert all(row["name"] for row in rows)
    if "colors" not in name:
        ids = sorted(int(value) for value in values if 0 <= int(value) < 255)
        assert ids == list(range(len(ids)))  # no gap


def test_every_map_is_read_by_a_layout() -> None:
    formats = {rule.format for layout in LAYOUTS.values() for rule in layout.rules}
    assert len(formats) == len(MAPS) == 8


def test_cityscapes_ids_are_torchvision_s() -> None:
    published = {row.id: (row.name, row.train_id) for row in Cityscapes.classes}
    ours = {int(row["value"]): (row["name"], row["class"]) for row in read_map("cityscapes")}
    assert ours.keys() == published.keys()
    for value, (name, train_id) in published.items():
        assert ours[value] == (name, NINETEEN[train_id] if 0 <= train_id < 19 else "")


def test_ids_follow_the_published_converters() -> None:
    assert train_ids("cityscapes") == train_ids("gta5") == CITYSCAPES_TO_TRAIN
    assert train_ids("synthia") == SYNTHIA_TO_TRAIN
    assert train_ids("idd") == IDD_TO_TRAIN
    assert train_ids("train_ids") == {i: i for i in range(19)}
    assert train_ids("crosscity") == {k: v for k, v in CITYSCAPES_TO_TRAIN.items() if v in THIRTEEN}


def test_subsets_are_the_published_ones_in_order() -> None:
    for name, ids in (("cityscapes", range(19)), ("synthia16", SIXTEEN), ("cityscapes13", THIRTEEN)):
        assert class_set(name).names == tuple(NINETEEN[i] for i in ids)
        assert class_set(name).palette == tuple(class_set("cityscapes").palette[i] for i in ids)
        assert expand_subset((name,)) == class_set(name).names
    assert expand_subset(("road", "cityscapes13"))[:2] == ("road", "road")


def test_synthia_has_the_16_classes_that_it_is_scored_on() -> None:
    never = {"terrain", "truck", "train"}  # have an id and no pixel: "not present in synthia" in the converter
    assert {row["class"] for row in read_map("synthia")} - never - {""} == set(class_set("synthia16").names)


def test_camvid_s_32_colors_are_grouped_as_by_segnet() -> None:
    rows = read_map("camvid_colors")
    assert len(rows) == 32
    assert all(re.fullmatch(r"\d+ \d+ \d+", row["value"]) for row in rows)
    for name, members in CAMVID_GROUPS.items():
        assert sorted(row["name"] for row in rows if row["class"] == name) == sorted(members.split())
    colors = {row["name"]: tuple(map(int, row["value"].split())) for row in rows}
    assert (colors["Sky"], colors["Void"], colors["Car"]) == ((128, 128, 128), (0, 0, 0), (64, 0, 128))
    # the colors of the eleven classes are those of the member that names them
    for name, member in (("sky", "Sky"), ("pole", "Column_Pole"), ("road", "Road"), ("bicyclist", "Bicyclist")):
        camvid = class_set("camvid")
        assert camvid.palette[camvid.names.index(name)] == colors[member]


def test_gta5_has_the_official_split() -> None:
    splits = Counter(split_of("gta5_splits", f"{number:05d}") for number in range(1, 24967))
    assert splits == GTA5.splits == {"train": 12403, "val": 6382, "test": 6181}
    assert sum(splits.values()) == 24966
    assert [split_of("gta5_splits", stem) for stem in ("00010", "00011", "00015", "00016", "00022")] == [
        "train",
        "test",
        "test",
        "train",
        "val",
    ]


@pytest.mark.parametrize(
    ("stem", "split"),
    [
        ("0001TP_008520", "train"),
        ("0001TP_008550", "test"),
        ("0006R0_f00930", "train"),
        ("0016E5_06960", "train"),
        ("0016E5_08159", "val"),
        ("0016E5_08190", "train"),
        ("Seq05VD_f05100", "test"),
    ],
)
def test_camvid_has_segnet_s_split(stem: str, split: str) -> None:
    assert split_of("camvid_splits", stem) == split
