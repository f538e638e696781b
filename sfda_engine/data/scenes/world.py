"""A procedural street: the camera and everything that can stand in front of it, in meters.

Street coordinates: s meters right of the center line, y up from the road, z ahead of the camera. Along a
curving street s stays constant; the camera bends it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfda_engine.data.scenes.style import RGB

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
    """Upright wall from (s0, z0) to (s1, z1); `window` is the glazed part of a bay, across and up."""

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
        """Far end: what stands nearer is painted later."""
        return max(self.z0, self.z1)


@dataclass(frozen=True)
class Car:
    """`z` is the end that faces the camera: the front of an oncoming car, the back of the others."""

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
    """Green wall from (s0, z1) to (s1, z)."""

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
class SideStreet:
    """It leaves to the left (side -1) or right (1) between z0 and z1."""

    side: int
    z0: float
    z1: float


@dataclass(frozen=True)
class World:
    """`road` is half the width, `walk` that of one pavement; `sun` points to it in the ground plane, length 1."""

    road: float
    walk: float
    facades: tuple[Facade, ...]
    things: tuple[Thing, ...]
    crossing: tuple[float, float] | None
    side_streets: tuple[SideStreet, ...]
    sun: tuple[float, float]
