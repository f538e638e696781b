"""What stands where in a procedural street: a world in meters, drawn at random in the manner of a `Style`.

Street coordinates: s meters right of the center line, y up from the road, z ahead of the camera. Along a
curving street s stays constant; the camera bends it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from sfda_engine.data.scene_style import RGB, Style

NEAR, FAR = 1.2, 95.0


@dataclass(frozen=True)
class Camera:
    """Pinhole camera on a canvas of `width` x `height` pixels; pitch moves the horizon (a shifted lens)."""

    width: int
    height: int
    focal: float
    horizon: float
    roll: float
    s: float
    above: float
    heading: float
    curve: float

    def bend(self, s: float, z: float) -> float:
        """Camera coordinate X, meters, of street coordinate s at depth z."""
        return s - self.s + self.heading * z + 0.5 * self.curve * z * z

    def project(self, s: float, y: float, z: float) -> tuple[float, float]:
        """Pixel (column, row) of a point of the street; z >= NEAR."""
        du = self.focal * self.bend(s, z) / z
        dv = self.horizon - 0.5 * self.height - self.focal * (y - self.above) / z
        return 0.5 * self.width + du - self.roll * dv, 0.5 * self.height + dv + self.roll * du

    def rays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Slopes X/Z and (Y - above)/Z of the ray through each pixel center, both (height, width)."""
        u = np.arange(self.width, dtype=np.float32) + (0.5 - 0.5 * self.width)
        v = np.arange(self.height, dtype=np.float32)[:, None] + (0.5 - 0.5 * self.height)
        scale = 1 / (self.focal * (1 + self.roll**2))
        offset = (self.horizon - 0.5 * self.height) / self.focal
        return u * scale + v * (self.roll * scale), (u * (self.roll * scale) + offset) - v * scale


@dataclass(frozen=True)
class Facade:
    """Upright wall from (s0, z0) to (s1, z1); `z` orders the painting."""

    s0: float
    z0: float
    s1: float
    z1: float
    height: float
    color: RGB
    accent: RGB
    bay: float
    window: tuple[float, float]
    roof: float
    normal: tuple[float, float]

    @property
    def z(self) -> float:
        return max(self.z0, self.z1)


@dataclass(frozen=True)
class Car:
    s: float
    z: float
    color: RGB
    length: float
    tall: float
    oncoming: bool


@dataclass(frozen=True)
class Person:
    s: float
    z: float
    tall: float
    shirt: RGB
    trousers: RGB
    skin: RGB
    stride: float


@dataclass(frozen=True)
class Tree:
    s: float
    z: float
    tall: float
    radius: float
    color: RGB
    palm: bool
    seed: int


@dataclass(frozen=True)
class Hedge:
    s0: float
    s1: float
    z: float
    z1: float
    tall: float
    color: RGB


@dataclass(frozen=True)
class Post:
    """Street furniture on a pole: `kind` lamp, light (traffic light), disc, triangle, square."""

    s: float
    z: float
    tall: float
    kind: str
    color: RGB


Thing = Car | Person | Tree | Hedge | Post


@dataclass(frozen=True)
class World:
    road: float
    walk: float
    facades: tuple[Facade, ...]
    things: tuple[Thing, ...]
    crossings: tuple[tuple[float, float], ...]
    side_streets: tuple[tuple[int, float, float], ...]
    sun: tuple[float, float]


def place_camera(dice: Random, style: Style, size: tuple[int, int], road: float) -> Camera:
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
    facades: list[Facade] = []
    things: list[Thing] = []
    streets: list[tuple[int, float, float]] = []
    for side in (-1, 1):
        _line_side(dice, style, side, road + walk, facades, things, streets)
    crossings = [(max(z0 - 4.5, 6.0), max(z0 - 1.5, 9.0)) for _, z0, _ in streets[:1]]
    _far_end(dice, style, facades, things)
    for side in (-1, 1):
        _furnish(dice, style, side, road, walk, things)
        _people(dice, style, side, road, walk, things)
    if crossings and dice.random() < 0.6:
        z = dice.uniform(*crossings[0])
        things.append(_person(dice, style, dice.uniform(-road + 2, road - 2), max(z, 8.0)))
    _traffic(dice, style, road, things)
    sun = (math.cos(angle), math.sin(angle))
    return World(road, walk, tuple(facades), tuple(things), tuple(crossings), tuple(streets), sun)


def _tint(dice: Random, color: RGB, spread: float = 0.06) -> RGB:
    gain = 1 + dice.uniform(-2, 2) * spread
    r, g, b = (min(1.0, max(0.0, c * gain + dice.uniform(-spread, spread) / 2)) for c in color)
    return r, g, b


def _line_side(
    dice: Random,
    style: Style,
    side: int,
    edge: float,
    facades: list[Facade],
    things: list[Thing],
    streets: list[tuple[int, float, float]],
) -> None:
    z = NEAR
    first = dice.uniform(4, 14)
    while z < FAR:
        length = first if z == NEAR else dice.uniform(*style.lot)
        kind = dice.random()
        if kind < style.garden and z > NEAR:
            _garden(dice, style, side, edge, z, z + length, things)
        elif kind < style.garden + style.side_street and 8 < z < 60:
            length = dice.uniform(6, 9)
            streets.append((side, z, z + length))
        else:
            _building(dice, style, side * (edge + dice.uniform(0, style.setback)), z, z + length, facades)
        z += length


def _building(dice: Random, style: Style, s: float, z0: float, z1: float, facades: list[Facade]) -> None:
    side = 1 if s > 0 else -1
    height = dice.uniform(*style.building)
    color, accent = _tint(dice, dice.choice(style.walls)), _tint(dice, dice.choice(style.accents))
    window = (dice.uniform(*style.window), dice.uniform(0.45, 0.65))
    bay, roof = dice.uniform(2.2, 3.4), style.roof * dice.uniform(0.7, 1.3)
    facades.append(Facade(s, z0, s, z1, height, color, accent, bay, window, roof, (-side, 0.0)))
    if z0 > NEAR:
        facades.append(Facade(s, z0, s + 14 * side, z0, height, color, accent, 2 * bay, window, roof, (0.0, -1.0)))


def _garden(dice: Random, style: Style, side: int, edge: float, z0: float, z1: float, things: list[Thing]) -> None:
    color = _tint(dice, dice.choice(style.leaves))
    s = side * (edge + 0.4)
    things.append(Hedge(s, s, z1 - 0.01, z0, dice.uniform(0.8, 1.9), color))
    things.append(Hedge(s, s + 10 * side, z0, z0, dice.uniform(0.8, 1.4), color))
    for z in (dice.uniform(z0 + 1, z1 - 1), dice.uniform(z0 + 1, z1 - 1)):
        things.append(_tree(dice, style, side * (edge + dice.uniform(2, 6)), z))


def _far_end(dice: Random, style: Style, facades: list[Facade], things: list[Thing]) -> None:
    s = -70.0
    while s < 70:
        width = dice.uniform(10, 25)
        if dice.random() < 0.5:
            color = _tint(dice, dice.choice(style.walls))
            height = dice.uniform(*style.building) * dice.uniform(0.4, 1)
            facades.append(
                Facade(s, FAR + 5, s + width, FAR + 5, height, color, color, 3.0, (0.5, 0.5), 0.0, (0.0, -1.0))
            )
        else:
            things.extend(_tree(dice, style, s + width * k, FAR + 4) for k in (0.2, 0.5, 0.8))
        s += width


def _tree(dice: Random, style: Style, s: float, z: float) -> Tree:
    tall = dice.uniform(*style.tree_height)
    color = _tint(dice, dice.choice(style.leaves))
    palm = dice.random() < style.palms
    return Tree(s, z, tall, tall * dice.uniform(0.26, 0.36), color, palm, dice.getrandbits(30))


def _furnish(dice: Random, style: Style, side: int, road: float, walk: float, things: list[Thing]) -> None:
    s = side * (road + 0.5)
    z = dice.uniform(5, 13)
    while z < 45:
        things.append(Post(s, z, dice.uniform(5, 6.5), "lamp", _tint(dice, style.pole)))
        z += dice.uniform(12, 18)
    z = dice.uniform(7, 14)
    while z < 32:
        if dice.random() < 0.75:
            kind = dice.choice(("light", "disc", "triangle", "square"))
            tall = dice.uniform(2.3, 3.0)
            things.append(Post(side * (road + dice.uniform(0.2, 0.8)), z, tall, kind, _tint(dice, style.pole)))
        z += dice.uniform(7, 14)
    z = dice.uniform(7, 22)
    while z < 60:
        if dice.random() < style.trees:
            things.append(_tree(dice, style, side * (road + dice.uniform(0.8, walk - 0.6)), z))
        z += dice.uniform(8, 13)


def _person(dice: Random, style: Style, s: float, z: float) -> Person:
    shirt, trousers = (
        dice.choice(style.clothes),
        dice.choice(((0.13, 0.15, 0.22), (0.2, 0.18, 0.16), (0.3, 0.34, 0.45))),
    )
    skin = dice.choice(((0.85, 0.66, 0.54), (0.68, 0.48, 0.36), (0.42, 0.28, 0.2)))
    return Person(s, z, dice.uniform(1.6, 1.9), _tint(dice, shirt), trousers, skin, dice.uniform(-0.28, 0.28))


def _people(dice: Random, style: Style, side: int, road: float, walk: float, things: list[Thing]) -> None:
    for _ in range(dice.randint(*style.people)):
        z = 5 + 24 * dice.random() ** 1.5
        s = side * (road + dice.uniform(0.5, walk - 0.5))
        things.append(_person(dice, style, s, z))
        if dice.random() < 0.35:
            things.append(_person(dice, style, s + side * 0.65, z + 0.3))


def _car(dice: Random, style: Style, s: float, z: float, oncoming: bool) -> Car:
    color = _tint(dice, dice.choice(style.cars), 0.04)
    return Car(s, z, color, dice.uniform(3.8, 4.8), dice.uniform(1.4, 1.85), oncoming)


def _traffic(dice: Random, style: Style, road: float, things: list[Thing]) -> None:
    for side in (-1, 1):
        z = dice.uniform(5, 9)
        while z < 50:
            if dice.random() < style.parked:
                things.append(_car(dice, style, side * (road - 1.1), z, side < 0))
            z += dice.uniform(5.6, 7.5)
        z = dice.uniform(9, 22)
        while z < 70:
            if dice.random() < style.driving:
                things.append(_car(dice, style, side * 0.5 * (road - 2), z, side < 0))
            z += dice.uniform(9, 20)
