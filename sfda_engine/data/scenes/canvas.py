"""The canvas of a street: color, and for each pixel the number of the object visible there.

The number gives label and depth, and lets the textures of ground and walls follow after the painting.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from sfda_engine.data.scenes.style import RGB
from sfda_engine.data.scenes.world import NEAR, Camera

ROAD, SIDEWALK, BUILDING, POLE, SIGN, VEGETATION, SKY, PERSON, CAR = range(9)
Points = list[tuple[float, float]]
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Light:
    """A lamp: pixel, radius in pixels, color, the object it belongs to, street position (s, y, z)."""

    u: float
    v: float
    radius: float
    color: RGB
    owner: int
    place: tuple[float, float, float]


@dataclass
class Canvas:
    """Color, object numbers and shadow, drawn together; object 0 is ground and sky, 1..F are the facades."""

    camera: Camera
    sun: tuple[float, float]
    light: tuple[float, float]
    labels: list[int]
    depths: list[float]
    color: Image.Image = field(init=False)
    owner: Image.Image = field(init=False)
    shadow: Image.Image = field(init=False)
    lights: list[Light] = field(default_factory=list)
    number: int = 0

    def __post_init__(self) -> None:
        size = self.camera.width, self.camera.height
        self.color, self.owner, self.shadow = (Image.new(mode, size) for mode in ("RGB", "I", "L"))
        self._color, self._owner, self._shadow = map(ImageDraw.Draw, (self.color, self.owner, self.shadow))

    @property
    def lean(self) -> float:
        """Where shadows fall: meters to the right per meter of height; 0 without sun."""
        return -self.sun[0] if self.light[1] else 0.0

    def begin(self, label: int, depth: float) -> None:
        """What follows belongs to a new object."""
        self.number = len(self.labels)
        self.labels.append(label)
        self.depths.append(depth)

    def shade(self, normal: tuple[float, float], color: RGB) -> Color:
        """Color under ambient light and sun on a wall with this horizontal normal, 0..255."""
        ambient, sun = self.light
        gain = 255 * (ambient + sun * max(0.0, normal[0] * self.sun[0] + normal[1] * self.sun[1]))
        return min(255, int(color[0] * gain)), min(255, int(color[1] * gain)), min(255, int(color[2] * gain))

    def polygon(self, points: Points, color: Color) -> None:
        """Part of the current object; later parts and objects cover it."""
        self._color.polygon(points, fill=color)
        self._owner.polygon(points, fill=self.number)

    def detail(self, points: Points, color: Color) -> None:
        """Inside the object's outline: color alone."""
        self._color.polygon(points, fill=color)

    def ellipse(self, u: float, v: float, a: float, b: float, color: Color) -> None:
        """Like `polygon`: center (u, v), half axes a and b, in pixels."""
        box = (u - a, v - b, u + a, v + b)
        self._color.ellipse(box, fill=color)
        self._owner.ellipse(box, fill=self.number)

    def cast(self, points: Points, strength: int) -> None:
        """Shadow on the ground, 0 none to 255 full."""
        self._shadow.polygon(points, fill=strength)

    def lamp(self, s: float, y: float, z: float, size: float, color: RGB) -> None:
        """A light source of `size` meters on the current object."""
        u, v = self.camera.project(s, y, z)
        self.lights.append(Light(u, v, max(1.0, size * self.camera.focal / z), color, self.number, (s, y, z)))


def wall(c: Camera, s0: float, z0: float, s1: float, z1: float, low: float, high: float) -> Points:
    """Outline in pixels of an upright rectangle from (s0, z0) to (s1, z1), `low` to `high` meters up."""
    corners = ((s0, low, z0), (s0, high, z0), (s1, high, z1), (s1, low, z1))
    return [c.project(*corner) for corner in corners]


def ground(c: Camera, s0: float, s1: float, z0: float, z1: float, lean: float = 0.0) -> Points:
    """Outline in pixels of a patch of ground whose far end is shifted by `lean` meters."""
    corners = ((s0, z0), (s1, z0), (s1 + lean, z1), (s0 + lean, z1))
    return [c.project(s, 0.0, max(z, NEAR)) for s, z in corners]
