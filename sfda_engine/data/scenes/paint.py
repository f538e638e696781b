"""Paint the things of a street, far to near."""

from __future__ import annotations

from random import Random

from sfda_engine.data.scenes.canvas import (
    BUILDING,
    CAR,
    PERSON,
    POLE,
    SIGN,
    SKY,
    VEGETATION,
    Canvas,
    Color,
    Points,
    ground,
    wall,
)
from sfda_engine.data.scenes.style import RGB, Style
from sfda_engine.data.scenes.world import Camera, Car, Facade, Hedge, Person, Post, Thing, Tree, World

AWAY = (0.0, -1.0)  # normal of what faces the camera
SIGN_COLORS = ((0.8, 0.1, 0.1), (0.95, 0.95, 0.93), (0.1, 0.28, 0.68), (0.1, 0.12, 0.1))
GREEN_LIGHT = ((51, 242, 127), (0.2, 0.95, 0.5))
RED_LIGHT = ((255, 51, 30), (1.0, 0.2, 0.12))


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
            canvas.polygon(wall(camera, item.s0, item.z0, item.s1, item.z1, 0, item.height), (0, 0, 0))
        else:
            _paint_thing(canvas, item)
    return canvas


def _shade_street(canvas: Canvas, facade: Facade) -> None:
    """Shadow that a row of houses with its back to the sun throws on the street."""
    reach = facade.normal[0] * min(5.0, 0.4 * facade.height)
    canvas.cast(ground(canvas.camera, facade.s0, facade.s0 + reach, facade.z0, facade.z1), 150)


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
            hedge = wall(canvas.camera, thing.s0, thing.z1, thing.s1, thing.z, 0, thing.tall)
            canvas.polygon(hedge, canvas.shade(AWAY, thing.color))
        case Post():
            _post(canvas, thing)


def _car(canvas: Canvas, car: Car) -> None:
    """Wheels, body, cabin: the end at `car.z`, the flank that faces the camera and the lid of a box on a box."""
    c, z, far = canvas.camera, car.z, car.z + car.length
    left, right = car.s - 0.9, car.s + 0.9
    facing = 1 if c.bend(car.s, z) < 0 else -1
    side, belt = (right if facing > 0 else left), 0.55 * car.tall
    body, flank, lid = (canvas.shade(n, car.color) for n in (AWAY, (float(facing), 0.0), canvas.sun))
    lean = 0.7 * canvas.lean
    canvas.cast(ground(c, left - 0.15 + min(lean, 0), right + 0.15 + max(lean, 0), z - 0.25, far + 0.2), 200)
    for axle in (z + 0.75, far - 0.75):
        canvas.polygon(_wheel(wall(c, side, axle - 0.33, side, axle + 0.33, 0.0, 0.62)), (18, 18, 20))
    canvas.polygon(wall(c, left + 0.05, z, right - 0.05, z, 0.06, 0.3), (16, 16, 18))
    canvas.polygon(wall(c, side, z, side, far, 0.28, belt), flank)
    canvas.polygon([c.project(s, belt, at) for s, at in ((left, z), (left, far), (right, far), (right, z))], lid)
    _cabin(canvas, car, side, facing, body, lid)
    canvas.polygon(wall(c, left, z, right, z, 0.26, belt), body)
    if z < 35:
        _car_lamps(canvas, car, belt)


def _cabin(canvas: Canvas, car: Car, side: float, facing: int, body: Color, lid: Color) -> None:
    c, belt, top = canvas.camera, 0.55 * car.tall, car.tall
    near, far = (0.32, 0.9) if car.oncoming else (0.12, 0.68)
    z0, z1 = car.z + near * car.length, car.z + far * car.length
    left, right, inset = car.s - 0.9, car.s + 0.9, 0.16
    glass = canvas.shade(canvas.sun, (0.16, 0.19, 0.22)) if canvas.light[1] else (44, 50, 58)

    def outline(*corners: tuple[float, float, float]) -> Points:
        return [c.project(*corner) for corner in corners]

    low, high = side - facing * 0.04, side - facing * inset
    canvas.polygon(
        outline((low, belt, z0), (high, top - 0.08, z0 + 0.5), (high, top - 0.08, z1 - 0.4), (low, belt, z1)),
        glass,
    )
    a, b = left + inset, right - inset
    canvas.polygon(outline((a, top, z0 + 0.5), (a, top, z1 - 0.4), (b, top, z1 - 0.4), (b, top, z0 + 0.5)), lid)
    canvas.polygon(
        outline((left + 0.06, belt, z0), (a, top, z0 + 0.5), (b, top, z0 + 0.5), (right - 0.06, belt, z0)), body
    )
    sill, lintel = belt + 0.05, top - 0.1
    a, b = left + inset + 0.1, right - inset - 0.1
    canvas.detail(
        outline((left + 0.2, sill, z0), (a, lintel, z0 + 0.44), (b, lintel, z0 + 0.44), (right - 0.2, sill, z0)),
        glass,
    )


def _car_lamps(canvas: Canvas, car: Car, belt: float) -> None:
    c, z = canvas.camera, car.z
    glow: RGB = (1.0, 0.95, 0.8) if car.oncoming else (0.85, 0.08, 0.06)
    shown = (225, 222, 205) if car.oncoming else (165, 22, 20)
    for s in (car.s - 0.9 + 0.22, car.s + 0.9 - 0.22):
        canvas.detail(wall(c, s - 0.17, z, s + 0.17, z, belt - 0.26, belt - 0.08), shown)
        canvas.lamp(s, belt - 0.17, z, 0.16, glow)
    canvas.detail(wall(c, car.s - 0.28, z, car.s + 0.28, z, 0.36, 0.48), (205, 205, 195))


def _wheel(quad: Points) -> Points:
    """The corners of a quadrilateral cut off: an octagon in perspective."""
    points: Points = []
    for i, (u, v) in enumerate(quad):
        for other in (quad[i - 1], quad[(i + 1) % 4]):
            points.append((u + 0.3 * (other[0] - u), v + 0.3 * (other[1] - v)))
    return points


def _person(canvas: Canvas, p: Person) -> None:
    c = canvas.camera
    u, v = c.project(p.s, 0.0, p.z)
    k = c.focal / p.z
    shirt, trousers, skin = (canvas.shade(AWAY, color) for color in (p.shirt, p.trousers, p.skin))
    lean = 1.2 * canvas.lean
    canvas.cast(ground(c, p.s - 0.2, p.s + 0.2, p.z, p.z + 0.3 + abs(lean) * 0.6, lean), 170)

    def at(x: float, y: float) -> tuple[float, float]:
        """Pixel at x meters to the right and y body heights up."""
        return u + x * k, v - y * p.tall * k

    def limb(x0: float, y0: float, x1: float, y1: float, width: float, color: Color) -> None:
        w = max(width * k, 1.6) / 2
        (a, top), (b, low) = at(x0, y0), at(x1, y1)
        canvas.polygon([(a - w, top), (a + w, top), (b + w, low), (b - w, low)], color)

    for side in (-1, 1):
        limb(side * 0.08, 0.5, side * (0.1 + p.stride), 0.0, 0.19, trousers)
    for side in (-1, 1):
        limb(side * 0.24, 0.8, side * 0.27 + 0.5 * p.stride, 0.45, 0.13, shirt)
    torso = ((-0.22, 0.47), (-0.27, 0.82), (-0.1, 0.86), (0.1, 0.86), (0.27, 0.82), (0.22, 0.47))
    canvas.polygon([at(*corner) for corner in torso], shirt)
    canvas.ellipse(*at(0.0, 0.93), max(0.12 * k, 1.2), max(0.14 * k, 1.4), skin)
    hair = ((-0.11, 0.95), (-0.07, 1.0), (0.07, 1.0), (0.11, 0.95))
    canvas.detail([at(*corner) for corner in hair], (40, 30, 25))


def _tree(canvas: Canvas, tree: Tree) -> None:
    c, dice = canvas.camera, Random(tree.seed)
    u, v = c.project(tree.s, 0.0, tree.z)
    k = c.focal / tree.z
    ambient, sun = canvas.light
    bark = canvas.shade(AWAY, (0.34, 0.27, 0.21))
    crown = v - (tree.tall - tree.radius) * k
    w = max(0.02 * tree.tall * k, 0.8)
    canvas.polygon([(u - 1.4 * w, v), (u - w, crown), (u + w, crown), (u + 1.4 * w, v)], bark)
    if tree.palm:
        _fronds(canvas, tree, dice, u, crown - 0.5 * tree.radius * k, k)
        return
    if sun:
        lean = 1.4 * canvas.lean
        r = 0.8 * tree.radius
        canvas.cast(ground(c, tree.s - r + lean, tree.s + r + lean, tree.z - r, tree.z + r), 150)
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
    color = canvas.shade(AWAY, post.color)
    canvas.polygon([(u - w, v), (u - 0.8 * w, top), (u + 0.8 * w, top), (u + w, v)], color)
    bright = min(255, color[0] + 30), min(255, color[1] + 30), min(255, color[2] + 30)
    canvas.detail([(u - w, v), (u - 0.8 * w, top), (u, top), (u, v)], bright)
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
    red, white, blue, black = (canvas.shade(AWAY, color) for color in SIGN_COLORS)

    def box(a: float, b: float) -> Points:
        return [(u - a, v - b), (u + a, v - b), (u + a, v + b), (u - a, v + b)]

    match post.kind:
        case "disc":
            canvas.ellipse(u, v, r, r, red)
            canvas.detail(box(0.62 * r, 0.2 * r), white)
        case "triangle":
            canvas.polygon([(u - 1.1 * r, v + 0.8 * r), (u, v - 1.1 * r), (u + 1.1 * r, v + 0.8 * r)], red)
            canvas.detail([(u - 0.6 * r, v + 0.5 * r), (u, v - 0.5 * r), (u + 0.6 * r, v + 0.5 * r)], white)
        case "square":
            canvas.polygon(box(r, r), blue)
            canvas.detail([(u - 0.4 * r, v + 0.6 * r), (u, v - 0.6 * r), (u + 0.4 * r, v + 0.6 * r)], white)
        case "light":
            canvas.polygon(box(0.55 * r, 1.45 * r), black)
            green = post.tall > 2.6
            drop = 0.85 * r if green else -0.85 * r
            color, glow = GREEN_LIGHT if green else RED_LIGHT
            canvas.ellipse(u, v + drop, 0.36 * r, 0.36 * r, color)
            canvas.lamp(post.s, post.tall - drop / k, post.z, 0.13, glow)
