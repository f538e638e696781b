"""What stands where in a procedural street, drawn at random in the manner of a `Style`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

from sfda_engine.data.images import ImageSize
from sfda_engine.data.scenes.style import RGB, SKIN, TROUSERS, Style
from sfda_engine.data.scenes.world import (
    FAR,
    NEAR,
    Camera,
    Car,
    Facade,
    Hedge,
    Person,
    Post,
    SideStreet,
    Thing,
    Tree,
    World,
)

Item = Facade | Thing | SideStreet


def place_camera(dice: Random, style: Style, size: ImageSize, road: float) -> Camera:
    """A camera in the right lane, with jitter; `size` is the canvas (width, height)."""
    width, height = size
    focal = 0.5 * width / math.tan(math.radians(dice.uniform(*style.fov)) / 2)
    horizon = 0.5 * height - focal * math.tan(math.radians(dice.uniform(*style.pitch)))
    return Camera(
        width,
        height,
        focal,
        horizon,
        roll=math.radians(dice.uniform(-style.roll, style.roll)),
        s=0.5 * (road - 2) + dice.uniform(-0.5, 0.5),
        above=dice.uniform(*style.camera_height),
        heading=dice.uniform(-0.05, 0.05),
        curve=dice.uniform(-style.curve, style.curve),
    )


def lay_out(dice: Random, style: Style) -> World:
    """A street: lots of buildings, gardens and side streets, then what stands on the road and beside it."""
    road, walk = dice.uniform(*style.road), dice.uniform(*style.walk)
    angle = dice.uniform(-math.pi, 0)
    items = [item for side in (-1, 1) for item in _line_side(dice, style, side, road + walk)]
    streets = tuple(item for item in items if isinstance(item, SideStreet))
    crossing = (max(streets[0].z0 - 4.5, 6.0), max(streets[0].z0 - 1.5, 9.0)) if streets else None
    items += _far_end(dice, style)
    for side in (-1, 1):
        items += _furnish(dice, style, side, road, walk)
        items += _people(dice, style, side, road, walk)
    if crossing and dice.random() < 0.6:
        z = dice.uniform(*crossing)
        items.append(_person(dice, style, dice.uniform(-road + 2, road - 2), max(z, 8.0)))
    items += _traffic(dice, style, road)
    return World(
        road,
        walk,
        facades=tuple(item for item in items if isinstance(item, Facade)),
        things=tuple(item for item in items if isinstance(item, Thing)),
        crossing=crossing,
        side_streets=streets,
        sun=(math.cos(angle), math.sin(angle)),
    )


def _tint(dice: Random, color: RGB, spread: float = 0.06) -> RGB:
    gain = 1 + dice.uniform(-2, 2) * spread
    r, g, b = (min(1.0, max(0.0, c * gain + dice.uniform(-spread, spread) / 2)) for c in color)
    return r, g, b


def _line_side(dice: Random, style: Style, side: int, edge: float) -> Iterator[Item]:
    z = NEAR
    first = dice.uniform(4, 14)
    while z < FAR:
        length = first if z == NEAR else dice.uniform(*style.lot)
        kind = dice.random()
        if kind < style.garden and z > NEAR:
            yield from _garden(dice, style, side, edge, z, z + length)
        elif kind < style.garden + style.side_street and 8 < z < 60:
            length = dice.uniform(6, 9)
            yield SideStreet(side, z, z + length)
        else:
            yield from _building(dice, style, side * (edge + dice.uniform(0, style.setback)), z, z + length)
        z += length


def _building(dice: Random, style: Style, s: float, z0: float, z1: float) -> Iterator[Item]:
    side = 1 if s > 0 else -1
    height = dice.uniform(*style.building)
    color, accent = _tint(dice, dice.choice(style.walls)), _tint(dice, dice.choice(style.accents))
    window = (dice.uniform(*style.window), dice.uniform(0.45, 0.65))
    bay, roof = dice.uniform(2.2, 3.4), style.roof * dice.uniform(0.7, 1.3)
    yield Facade(s, z0, s, z1, height, color, accent, bay, window, roof, (-side, 0.0))
    if z0 > NEAR:
        yield Facade(s, z0, s + 14 * side, z0, height, color, accent, 2 * bay, window, roof, (0.0, -1.0))


def _garden(dice: Random, style: Style, side: int, edge: float, z0: float, z1: float) -> Iterator[Item]:
    color = _tint(dice, dice.choice(style.leaves))
    s = side * (edge + 0.4)
    yield Hedge(s, s, z1 - 0.01, z0, dice.uniform(0.8, 1.9), color)
    yield Hedge(s, s + 10 * side, z0, z0, dice.uniform(0.8, 1.4), color)
    for z in (dice.uniform(z0 + 1, z1 - 1), dice.uniform(z0 + 1, z1 - 1)):
        yield _tree(dice, style, side * (edge + dice.uniform(2, 6)), z)


def _far_end(dice: Random, style: Style) -> Iterator[Item]:
    s = -70.0
    while s < 70:
        width = dice.uniform(10, 25)
        if dice.random() < 0.5:
            color = _tint(dice, dice.choice(style.walls))
            height = dice.uniform(*style.building) * dice.uniform(0.4, 1)
            z = FAR + 5
            yield Facade(s, z, s + width, z, height, color, color, 3.0, (0.5, 0.5), 0.0, (0.0, -1.0))
        else:
            yield from (_tree(dice, style, s + width * k, FAR + 4) for k in (0.2, 0.5, 0.8))
        s += width


def _tree(dice: Random, style: Style, s: float, z: float) -> Tree:
    tall = dice.uniform(*style.tree_height)
    color = _tint(dice, dice.choice(style.leaves))
    palm = dice.random() < style.palms
    return Tree(s, z, tall, tall * dice.uniform(0.26, 0.36), color, palm, dice.getrandbits(30))


def _furnish(dice: Random, style: Style, side: int, road: float, walk: float) -> Iterator[Item]:
    s = side * (road + 0.5)
    z = dice.uniform(5, 13)
    while z < 45:
        yield Post(s, z, dice.uniform(5, 6.5), "lamp", _tint(dice, style.pole))
        z += dice.uniform(12, 18)
    z = dice.uniform(7, 14)
    while z < 32:
        if dice.random() < 0.75:
            kind = dice.choice(("light", "disc", "triangle", "square"))
            tall = dice.uniform(2.3, 3.0)
            yield Post(side * (road + dice.uniform(0.2, 0.8)), z, tall, kind, _tint(dice, style.pole))
        z += dice.uniform(7, 14)
    z = dice.uniform(7, 22)
    while z < 60:
        if dice.random() < style.trees:
            yield _tree(dice, style, side * (road + dice.uniform(0.8, walk - 0.6)), z)
        z += dice.uniform(8, 13)


def _person(dice: Random, style: Style, s: float, z: float) -> Person:
    shirt, trousers, skin = dice.choice(style.clothes), dice.choice(TROUSERS), dice.choice(SKIN)
    return Person(s, z, dice.uniform(1.6, 1.9), _tint(dice, shirt), trousers, skin, dice.uniform(-0.28, 0.28))


def _people(dice: Random, style: Style, side: int, road: float, walk: float) -> Iterator[Item]:
    for _ in range(dice.randint(*style.people)):
        z = 5 + 24 * dice.random() ** 1.5
        s = side * (road + dice.uniform(0.5, walk - 0.5))
        yield _person(dice, style, s, z)
        if dice.random() < 0.35:
            yield _person(dice, style, s + side * 0.65, z + 0.3)


def _car(dice: Random, style: Style, s: float, z: float, oncoming: bool) -> Car:
    color = _tint(dice, dice.choice(style.cars), 0.04)
    return Car(s, z, color, dice.uniform(3.8, 4.8), dice.uniform(1.4, 1.85), oncoming)


def _traffic(dice: Random, style: Style, road: float) -> Iterator[Item]:
    for side in (-1, 1):
        z = dice.uniform(5, 9)
        while z < 50:
            if dice.random() < style.parked:
                yield _car(dice, style, side * (road - 1.1), z, side < 0)
            z += dice.uniform(5.6, 7.5)
        z = dice.uniform(9, 22)
        while z < 70:
            if dice.random() < style.driving:
                yield _car(dice, style, side * 0.5 * (road - 2), z, side < 0)
            z += dice.uniform(9, 20)
