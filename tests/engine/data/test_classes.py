"""Class sets: published ids and colors, generic palettes, colorized labels."""

from __future__ import annotations

import numpy as np
import pytest

from sfda_engine.data.classes import CLASS_SETS, IGNORE, class_set, colorize, generic_classes
from sfda_engine.errors import UserError


def test_every_set_is_consistent() -> None:
    assert set(CLASS_SETS) >= {"scenes", "camvid", "cityscapes"}
    for key, classes in CLASS_SETS.items():
        assert classes.name == key
        assert len(classes.names) == len(classes.palette) == len(set(classes.names)) == len(set(classes.palette))
        assert all(0 <= channel <= 255 for color in classes.palette for channel in color)
        assert (0, 0, 0) not in classes.palette  # black means ignore


def test_cityscapes_and_camvid_follow_the_published_order() -> None:
    city, camvid = class_set("cityscapes"), class_set("camvid")
    assert len(city.names) == 19
    assert [city.names[i] for i in (0, 6, 10, 11, 13, 18)] == [
        "road",
        "traffic light",
        "sky",
        "person",
        "car",
        "bicycle",
    ]
    assert city.palette[13] == (0, 0, 142)
    expected = "sky building pole road sidewalk tree sign fence car pedestrian bicyclist"
    assert camvid.names == tuple(expected.split())


def test_unknown_set_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"scenes, camvid, cityscapes.*'cityscapes'"):
        class_set("cityscape")


@pytest.mark.parametrize("k", [1, 2, 19, 40, 255])
def test_generic_classes_differ_in_color(k: int) -> None:
    classes = generic_classes(k)
    assert classes.names[-1] == f"class_{k - 1}"
    assert len(classes.palette) == k
    colors = np.asarray(classes.palette[:19], float)
    distance = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + 1e3 * np.eye(len(colors))
    assert distance.min() > 20


@pytest.mark.parametrize("k", [0, -1, 256])
def test_generic_classes_reject_impossible_counts(k: int) -> None:
    with pytest.raises(UserError, match=str(k)):
        generic_classes(k)


def test_colorize_paints_ignore_black() -> None:
    labels = np.array([[0, 2], [IGNORE, 1]], np.uint8)
    image = colorize(labels, ((1, 2, 3), (4, 5, 6), (7, 8, 9)))
    assert image.dtype == np.uint8
    assert image.tolist() == [[[1, 2, 3], [7, 8, 9]], [[0, 0, 0], [4, 5, 6]]]
