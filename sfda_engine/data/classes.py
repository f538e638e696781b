"""Class sets: names and palettes, and labels as colored images."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from sfda_engine.errors import UserError

IGNORE = 255

Color = tuple[int, int, int]


@dataclass(frozen=True)
class ClassSet:
    """Names and RGB colors (0..255) of the train ids 0..K-1, in order."""

    name: str
    names: tuple[str, ...]
    palette: tuple[Color, ...]


def _set(name: str, **colors: Color) -> ClassSet:
    return ClassSet(name, tuple(key.replace("_", " ") for key in colors), tuple(colors.values()))


CLASS_SETS = {
    "scenes": _set(
        "scenes",
        road=(128, 64, 128),
        sidewalk=(244, 35, 232),
        building=(70, 70, 70),
        pole=(153, 153, 153),
        sign=(220, 220, 0),
        vegetation=(107, 142, 35),
        sky=(70, 130, 180),
        person=(220, 20, 60),
        car=(0, 0, 142),
    ),
    # The 11 classes and colors of Brostow, Fauqueur, Cipolla (2009) as grouped by SegNet.
    "camvid": _set(
        "camvid",
        sky=(128, 128, 128),
        building=(128, 0, 0),
        pole=(192, 192, 128),
        road=(128, 64, 128),
        sidewalk=(0, 0, 192),
        tree=(128, 128, 0),
        sign=(192, 128, 128),
        fence=(64, 64, 128),
        car=(64, 0, 128),
        pedestrian=(64, 64, 0),
        bicyclist=(0, 128, 192),
    ),
    # Train ids and colors of cityscapesScripts/helpers/labels.py.
    "cityscapes": _set(
        "cityscapes",
        road=(128, 64, 128),
        sidewalk=(244, 35, 232),
        building=(70, 70, 70),
        wall=(102, 102, 156),
        fence=(190, 153, 153),
        pole=(153, 153, 153),
        traffic_light=(250, 170, 30),
        traffic_sign=(220, 220, 0),
        vegetation=(107, 142, 35),
        terrain=(152, 251, 152),
        sky=(70, 130, 180),
        person=(220, 20, 60),
        rider=(255, 0, 0),
        car=(0, 0, 142),
        truck=(0, 0, 70),
        bus=(0, 60, 100),
        train=(0, 80, 100),
        motorcycle=(0, 0, 230),
        bicycle=(119, 11, 32),
    ),
}

# Classes that SYNTHIA shares with Cityscapes, and the 13 of them in its second table, which are Cross-City's too:
# AdaptSegNet (Tsai et al., CVPR 2018); ids in ZJULearning/MaxSquareLoss, datasets/*_Dataset.py.
_SYNTHIA_LACKS = ("terrain", "truck", "train")
_13_LACK = (*_SYNTHIA_LACKS, "wall", "fence", "pole")


def _without(name: str, whole: ClassSet, missing: tuple[str, ...]) -> ClassSet:
    kept = [(key, color) for key, color in zip(whole.names, whole.palette, strict=True) if key not in missing]
    return ClassSet(name, tuple(key for key, _ in kept), tuple(color for _, color in kept))


CLASS_SETS["synthia16"] = _without("synthia16", CLASS_SETS["cityscapes"], _SYNTHIA_LACKS)
CLASS_SETS["cityscapes13"] = _without("cityscapes13", CLASS_SETS["cityscapes"], _13_LACK)


def class_set(name: str) -> ClassSet:
    """The class set called `name`; UserError lists the known names."""
    if name not in CLASS_SETS:
        close = get_close_matches(name, CLASS_SETS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"no class set is called {name!r}: choose one of {', '.join(CLASS_SETS)}{hint}")
    return CLASS_SETS[name]


def expand_subset(subset: tuple[str, ...]) -> tuple[str, ...]:
    """Class names, where the name of a class set stands for all of its classes."""
    return tuple(name for key in subset for name in (CLASS_SETS[key].names if key in CLASS_SETS else (key,)))


def generic_classes(k: int) -> ClassSet:
    """`k` classes class_0.. (1 <= k <= 255): hues a golden ratio apart, three brightnesses in turn."""
    if not 1 <= k <= IGNORE:
        raise UserError(f"the number of classes is {k}: it must lie in 1..{IGNORE} ({IGNORE} itself means ignore)")
    colors = [colorsys.hsv_to_rgb(0.618034 * i % 1, 0.75 - 0.2 * (i % 2), 1 - 0.22 * (i % 3)) for i in range(k)]
    palette = tuple((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in colors)
    return ClassSet(f"generic_{k}", tuple(f"class_{i}" for i in range(k)), palette)


def colorize(labels: NDArray[np.uint8], palette: tuple[Color, ...]) -> NDArray[np.uint8]:
    """Train ids (H, W) uint8 -> RGB (H, W, 3) uint8; ids without a color, 255 among them, are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table[labels]
