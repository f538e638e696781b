"""Paint the things of a street, far to near: flat polygons in color, each stamped with an object number.

The number of a pixel tells who is visible there, so labels, depth and wall textures follow afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from PIL import Image, ImageDraw

from sfda_engine.data.scene_layout import NEAR, Camera, Car, Facade, Hedge, Person, Post, Thing, Tree, World
from sfda_engine.data.scene_style import RGB, Style

ROAD, SIDEWALK, BUILDING, POLE, SIGN, VEGETATION, SKY, PERSON, CAR = range(9)
Points = list[tuple[float, float]]


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

    def begin(self, label: int, depth: float) -> None:
        """What follows belongs to a new object."""
        self.number = len(self.labels)
        self.labels.append(label)
        self.depths.append(depth)

    def shade(self, normal: tuple[float, float], color: RGB) -> tuple[int, int, int]:
        """Color under ambient light and sun on a wall with this horizontal normal, 0..255."""
        ambient, sun = self.light
        gain = 255 * (ambient + sun * max(0.0, normal[0] * self.sun[0] + normal[1] * self.sun[1]))
        return min(255, int(color[0] * gain)), min(255, int(color[1] * gain)), min(255, int(color[2] * gain))

    def polygon(self, points: Points, color: tuple[int, int, int]) -> None:
        self._color.polygon(points, fill=color)
        self._owner.polygon(points, fill=self.number)

    def detail(self, points: Points, color: tuple[int, int, int]) -> None:
        """Inside the object's outline: color alone."""
        self._color.polygon(points, fill=color)

    def ellipse(self, u: float, v: float, a: float, b: float, color: tuple[int, int, int]) -> None:
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


def paint(world: World, camera: Camera, style: Style) -> Canvas:
    """The whole street; object 0 and the facades come first in the tables of labels and depths."""
    canvas = Canvas(
        camera,
        world.sun,
        style.light,
        labels=[SKY] + [BUILDING] * len(world.facades),
        depths=[1e4] + [facade.z for facade in world.facades],
    )
    for facade in world.facades:
        if style.light[1] and facade.normal[1] == 0 and facade.normal[0] * world.sun[0] < 0:
            _shade_street(canvas, facade)
    order = sorted([*enumerate(world.facades, 1), *((0, t) for t in world.things)], key=lambda item: -item[1].z)
    for number, item in order:
        if isinstance(item, Facade):
            canvas.number = number
            canvas.polygon(_wall(camera, item.s0, item.z0, item.s1, item.z1, 0, item.height), (0, 0, 0))
        else:
            _paint_thing(canvas, item)
    return canvas


def _wall(c: Camera, s0: float, z0: float, s1: float, z1: float, low: float, high: float) -> Points:
    corners = ((s0, low, z0), (s0, high, z0), (s1, high, z1), (s1, low, z1))
    return [c.project(*corner) for corner in corners]


def _ground(c: Camera, s0: float, s1: float, z0: float, z1: float, lean: float = 0.0) -> Points:
    corners = ((s0, z0), (s1, z0), (s1 + lean, z1), (s0 + lean, z1))
    return [c.project(s, 0.0, max(z, NEAR)) for s, z in corners]


def _shade_street(canvas: Canvas, facade: Facade) -> None:
    """Shadow that a row of houses with its back to the sun throws on the street."""
    reach = facade.normal[0] * min(5.0, 0.4 * facade.height)
    canvas.cast(_ground(canvas.camera, facade.s0, facade.s0 + reach, facade.z0, facade.z1, 0.0), 150)


def _paint_thing(canvas: Canvas, thing: Thing) -> None:
    match thing:
        case Car():
            canvas.begin(CAR, thing.z)
            _car(canvas, thing)
        case Person():
            canvas.begin(PERSON, thing.z)
            _person(canvas, thing)
        case Tree():
            canvas.begin(VEGETATION, thing.z)
            _tree(canvas, thing)
        case Hedge():
            canvas.begin(VEGETATION, thing.z)
            wall = _wall(canvas.camera, thing.s0, thing.z1, thing.s1, thing.z, 0, thing.tall)
            canvas.polygon(wall, canvas.shade((0.0, -1.0), thing.color))
        case Post():
            _post(canvas, thing)


def _car(canvas: Canvas, car: Car) -> None:
    c, far, z = canvas.camera, car.z + car.length, car.z
    left, right = car.s - 0.9, car.s + 0.9
    facing = 1 if c.bend(car.s, z) < 0 else -1
    side = right if facing > 0 else left
    belt, top = 0.55 * car.tall, car.tall
    n, away = (float(facing), 0.0), (0.0, -1.0)
    body, flank, lid = (canvas.shade(d, car.color) for d in (away, n, canvas.sun))
    glass = canvas.shade(canvas.sun, (0.16, 0.19, 0.22)) if canvas.light[1] else (44, 50, 58)
    lean = 0.7 * canvas.sun[0] * -1 if canvas.light[1] else 0.0
    canvas.cast(_ground(c, left - 0.15 + min(lean, 0), right + 0.15 + max(lean, 0), z - 0.25, far + 0.2), 200)
    cabin0, cabin1 = z + 0.12 * car.length, z + 0.68 * car.length
    if car.oncoming:
        cabin0, cabin1 = z + 0.32 * car.length, z + 0.9 * car.length
    inset = 0.16
    for zw in (z + 0.75, far - 0.75):
        wheel = _wall(c, side, zw - 0.33, side, zw + 0.33, 0.0, 0.62)
        canvas.polygon(wall_octagon(wheel), (18, 18, 20))
    canvas.polygon(_wall(c, left + 0.05, z, right - 0.05, z, 0.06, 0.3), (16, 16, 18))
    canvas.polygon(_wall(c, side, z, side, far, 0.28, belt), flank)
    canvas.polygon(
        [
            c.project(left, belt, z),
            c.project(left, belt, far),
            c.project(right, belt, far),
            c.project(right, belt, z),
        ],
        lid,
    )
    roof = [
        (left + inset, cabin0 + 0.5),
        (left + inset, cabin1 - 0.4),
        (right - inset, cabin1 - 0.4),
        (right - inset, cabin0 + 0.5),
    ]
    s_in = side - facing * inset
    flank_glass = [
        c.project(side - facing * 0.04, belt, cabin0),
        c.project(s_in, top - 0.08, cabin0 + 0.5),
        c.project(s_in, top - 0.08, cabin1 - 0.4),
        c.project(side - facing * 0.04, belt, cabin1),
    ]
    canvas.polygon(flank_glass, glass)
    canvas.polygon([c.project(s, top, zr) for s, zr in roof], lid)
    back = [c.project(left + 0.06, belt, cabin0), c.project(left + inset, top, cabin0 + 0.5)]
    back += [c.project(right - inset, top, cabin0 + 0.5), c.project(right - 0.06, belt, cabin0)]
    canvas.polygon(back, body)
    pane = [
        c.project(left + 0.2, belt + 0.05, cabin0),
        c.project(left + inset + 0.1, top - 0.1, cabin0 + 0.44),
    ]
    pane += [
        c.project(right - inset - 0.1, top - 0.1, cabin0 + 0.44),
        c.project(right - 0.2, belt + 0.05, cabin0),
    ]
    canvas.detail(pane, glass)
    canvas.polygon(_wall(c, left, z, right, z, 0.26, belt), body)
    if z > 35:
        return
    lamp: RGB = (1.0, 0.95, 0.8) if car.oncoming else (0.85, 0.08, 0.06)
    shown = (225, 222, 205) if car.oncoming else (165, 22, 20)
    for s in (left + 0.22, right - 0.22):
        canvas.detail(_wall(c, s - 0.17, z, s + 0.17, z, belt - 0.26, belt - 0.08), shown)
        canvas.lamp(s, belt - 0.17, z, 0.16, lamp)
    canvas.detail(_wall(c, car.s - 0.28, z, car.s + 0.28, z, 0.36, 0.48), (205, 205, 195))


def wall_octagon(quad: Points) -> Points:
    """The corners of a quadrilateral cut off: a wheel in perspective."""
    points: Points = []
    for i, (u, v) in enumerate(quad):
        for other in (quad[i - 1], quad[(i + 1) % 4]):
            points.append((u + 0.3 * (other[0] - u), v + 0.3 * (other[1] - v)))
    return points


def _person(canvas: Canvas, p: Person) -> None:
    c = canvas.camera
    u, v = c.project(p.s, 0.0, p.z)
    k, h = c.focal / p.z, p.tall
    tone = (0.0, -1.0)
    shirt, trousers, skin = (canvas.shade(tone, x) for x in (p.shirt, p.trousers, p.skin))
    lean = -1.2 * canvas.sun[0] if canvas.light[1] else 0.0
    canvas.cast(_ground(c, p.s - 0.2, p.s + 0.2, p.z, p.z + 0.3 + abs(lean) * 0.6, lean), 170)

    def limb(x0: float, y0: float, x1: float, y1: float, w: float, color: tuple[int, int, int]) -> None:
        w = max(w * k, 1.6) / 2
        a, b, top, low = u + x0 * k, u + x1 * k, v - y0 * h * k, v - y1 * h * k
        canvas.polygon([(a - w, top), (a + w, top), (b + w, low), (b - w, low)], color)

    limb(-0.08, 0.5, -0.1 - p.stride, 0.0, 0.19, trousers)
    limb(0.08, 0.5, 0.1 + p.stride, 0.0, 0.19, trousers)
    limb(-0.24, 0.8, -0.27 + 0.5 * p.stride, 0.45, 0.13, shirt)
    limb(0.24, 0.8, 0.27 + 0.5 * p.stride, 0.45, 0.13, shirt)
    torso = [
        (u + x * k, v - y * h * k)
        for x, y in ((-0.22, 0.47), (-0.27, 0.82), (-0.1, 0.86), (0.1, 0.86), (0.27, 0.82), (0.22, 0.47))
    ]
    canvas.polygon(torso, shirt)
    canvas.ellipse(u, v - 0.93 * h * k, max(0.12 * k, 1.2), max(0.14 * k, 1.4), skin)
    canvas.detail(
        [(u + x * k, v - y * h * k) for x, y in ((-0.11, 0.95), (-0.07, 1.0), (0.07, 1.0), (0.11, 0.95))],
        (40, 30, 25),
    )


def _tree(canvas: Canvas, tree: Tree) -> None:
    c, dice = canvas.camera, Random(tree.seed)
    u, v = c.project(tree.s, 0.0, tree.z)
    k = c.focal / tree.z
    ambient, sun = canvas.light
    bark = canvas.shade((0.0, -1.0), (0.34, 0.27, 0.21))
    crown = v - (tree.tall - tree.radius) * k
    w = max(0.02 * tree.tall * k, 0.8)
    canvas.polygon([(u - 1.4 * w, v), (u - w, crown), (u + w, crown), (u + 1.4 * w, v)], bark)
    if tree.palm:
        _fronds(canvas, tree, dice, u, crown - 0.5 * tree.radius * k, k)
        return
    if sun:
        lean = -1.4 * canvas.sun[0]
        r = 0.8 * tree.radius
        canvas.cast(_ground(c, tree.s - r + lean, tree.s + r + lean, tree.z - r, tree.z + r), 150)
    fine = tree.radius * k > 12
    for step in range(3):
        for _ in range(6 if fine else 2):
            x, y = dice.uniform(-0.6, 0.6), dice.uniform(-0.65, 0.65)
            r = tree.radius * k * (dice.uniform(0.3, 0.5) if fine else 0.6)
            lit = ambient * (0.62 + 0.14 * step + 0.18 * y) + 0.35 * sun * (1 + x * canvas.sun[0])
            red, green, blue = (min(255, int(255 * lit * ch)) for ch in tree.color)
            canvas.ellipse(u + x * tree.radius * k, crown - y * tree.radius * k, r, 0.85 * r, (red, green, blue))


def _fronds(canvas: Canvas, tree: Tree, dice: Random, u: float, v: float, k: float) -> None:
    size = 0.95 * tree.radius * k
    for i in range(11):
        x = (i - 5) / 5 + dice.uniform(-0.1, 0.1)
        rise, drop = 0.75 * (1 - x * x) + 0.15, dice.uniform(0.2, 0.7) * abs(x) - 0.45 * (1 - abs(x))
        lit = 255 * (canvas.light[0] * dice.uniform(0.65, 1.0) + 0.3 * canvas.light[1])
        red, green, blue = (min(255, int(lit * ch)) for ch in tree.color)
        bend, tip = (u + 0.55 * x * size, v - rise * size), (u + x * size, v + drop * size)
        w = 0.16 * size
        canvas.polygon(
            [(u - 0.4 * w, v), (bend[0] - w, bend[1]), tip, (bend[0] + w, bend[1] + w), (u + 0.4 * w, v + w)],
            (red, green, blue),
        )


def _post(canvas: Canvas, post: Post) -> None:
    c, k = canvas.camera, canvas.camera.focal / post.z
    canvas.begin(POLE, post.z)
    u, v = c.project(post.s, 0.0, post.z)
    top = v - post.tall * k
    w = max((0.2 if post.kind == "lamp" else 0.15) * k, 3.4) / 2
    color = canvas.shade((0.0, -1.0), post.color)
    canvas.polygon([(u - w, v), (u - 0.8 * w, top), (u + 0.8 * w, top), (u + w, v)], color)
    canvas.detail([(u - w, v), (u - 0.8 * w, top), (u, top), (u, v)], tuple(min(255, x + 30) for x in color))
    if post.kind == "lamp":
        arm = -1.5 if post.s > 0 else 1.5
        canvas.polygon(
            [(u, top), (u + arm * k, top - 0.2 * k), (u + arm * k, top - 0.2 * k + w), (u, top + 1.6 * w)],
            color,
        )
        canvas.ellipse(u + arm * k, top - 0.1 * k, max(0.45 * k, 2), max(0.17 * k, 1.5), color)
        canvas.lamp(post.s + arm, post.tall, post.z, 0.3, (1.0, 0.78, 0.45))
        return
    canvas.begin(SIGN, post.z)
    _sign(canvas, post, u, top, k)


def _sign(canvas: Canvas, post: Post, u: float, v: float, k: float) -> None:
    r = max(0.46 * k, 3.4)
    away = (0.0, -1.0)
    red, white = canvas.shade(away, (0.8, 0.1, 0.1)), canvas.shade(away, (0.95, 0.95, 0.93))
    match post.kind:
        case "disc":
            canvas.ellipse(u, v, r, r, red)
            canvas.detail(
                [
                    (u - 0.62 * r, v - 0.2 * r),
                    (u + 0.62 * r, v - 0.2 * r),
                    (u + 0.62 * r, v + 0.2 * r),
                    (u - 0.62 * r, v + 0.2 * r),
                ],
                white,
            )
        case "triangle":
            canvas.polygon([(u - 1.1 * r, v + 0.8 * r), (u, v - 1.1 * r), (u + 1.1 * r, v + 0.8 * r)], red)
            canvas.detail([(u - 0.6 * r, v + 0.5 * r), (u, v - 0.5 * r), (u + 0.6 * r, v + 0.5 * r)], white)
        case "square":
            canvas.polygon(
                [(u - r, v - r), (u + r, v - r), (u + r, v + r), (u - r, v + r)],
                canvas.shade(away, (0.1, 0.28, 0.68)),
            )
            canvas.detail([(u - 0.4 * r, v + 0.6 * r), (u, v - 0.6 * r), (u + 0.4 * r, v + 0.6 * r)], white)
        case _:
            a, b = 0.55 * r, 1.45 * r
            canvas.polygon(
                [(u - a, v - b), (u + a, v - b), (u + a, v + b), (u - a, v + b)],
                canvas.shade(away, (0.1, 0.12, 0.1)),
            )
            green = post.tall > 2.6
            on = v + 0.85 * r if green else v - 0.85 * r
            glow: RGB = (0.2, 0.95, 0.5) if green else (1.0, 0.2, 0.12)
            q = 0.36 * r
            canvas.ellipse(u, on, q, q, (int(255 * glow[0]), int(255 * glow[1]), int(255 * glow[2])))
            canvas.lamp(post.s, post.tall + (-0.85 if green else 0.85) * r / k, post.z, 0.13, glow)
