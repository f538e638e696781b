"""Texture of the large surfaces, pixel by pixel: road and pavement, walls with windows, sky, foliage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfda_engine.data.scenes.canvas import BUILDING, ROAD, SIDEWALK, VEGETATION, Canvas
from sfda_engine.data.scenes.style import Style
from sfda_engine.data.scenes.world import FAR, World

Array = NDArray[np.float32]


@dataclass
class Surfaces:
    """The painted canvas as arrays (H, W): color (H, W, 3) and emission in 0..1, label, depth in meters."""

    color: Array
    label: NDArray[np.uint8]
    depth: Array
    emission: Array
    owner: NDArray[np.int32]


def texture(canvas: Canvas, world: World, style: Style, rng: np.random.Generator) -> Surfaces:
    """Give every pixel of the canvas its label, depth, final color in even light, and emission."""
    owner = np.asarray(canvas.owner, np.int32)
    color = np.asarray(canvas.color, np.float32) * np.float32(1 / 255)
    label = np.asarray(canvas.labels, np.uint8)[owner]
    depth = np.asarray(canvas.depths, np.float32)[owner]
    out = Surfaces(color, label, depth, np.zeros(owner.shape, np.float32), owner)
    dx, dy = canvas.camera.rays()
    tile = rng.random((64, 64), dtype=np.float32) - np.float32(0.5)
    below = (owner == 0) & (dy < -1e-3 * canvas.camera.above)
    _sky(out, (owner == 0) & ~below, dy, style, rng)
    _ground(out, below, canvas, dx, dy, world, style, tile)
    _facades(out, canvas, dx, dy, world, style, tile)
    leaf = np.flatnonzero(out.label == VEGETATION)
    out.color.reshape(-1, 3)[leaf] *= 1 + 0.9 * rng.choice(tile.ravel(), leaf.size)[:, None]
    return out


def _sky(out: Surfaces, mask: NDArray[np.bool_], dy: Array, style: Style, rng: np.random.Generator) -> None:
    zenith, horizon = np.asarray(style.sky, np.float32)
    height, width = dy.shape
    puffs = _clouds(rng, width, height)
    pixels = np.flatnonzero(mask)
    rise = np.clip(dy.ravel()[pixels] * 1.6, 0, 1)[:, None]
    cloud = style.clouds * rng.random() * 2 * np.clip(puffs.ravel()[pixels] * 3 - 1.5, 0, 1)[:, None]
    color = horizon + (zenith - horizon) * rise
    out.color.reshape(-1, 3)[pixels] = color + cloud * (0.3 + 0.7 * horizon.max() - color)
    out.emission.ravel()[pixels] = 1


def _clouds(rng: np.random.Generator, width: int, height: int) -> Array:
    coarse = Image.fromarray(rng.random((9, 7), dtype=np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def _ground(
    out: Surfaces,
    mask: NDArray[np.bool_],
    canvas: Canvas,
    dx: Array,
    dy: Array,
    world: World,
    style: Style,
    tile: Array,
) -> None:
    c = canvas.camera
    pixels = np.flatnonzero(mask)
    z = np.minimum(c.above / -dy.ravel()[pixels], 2 * FAR)
    s = (dx.ravel()[pixels] - c.heading) * z + c.s - 0.5 * c.curve * z * z
    across = np.abs(s)
    road = across < world.road
    crossed = np.zeros(z.shape, bool)
    for street in world.side_streets:
        crossed |= (s * street.side > 0) & (z > street.z0) & (z < street.z1)
    road |= crossed
    coarse = tile[(s * 2).astype(np.int32) & 63, (z * 0.7).astype(np.int32) & 63]
    fine = tile[(s * 23).astype(np.int32) & 63, (z * 9).astype(np.int32) & 63]
    tone = 1 + 0.10 * coarse + 0.16 * fine
    ruts = np.abs(np.abs(across - 0.5 * (world.road - 2)) - 0.75) < 0.3
    tone -= 0.06 * (road & ruts)
    tone -= 0.14 * (~road & (z < 28) & ((_phase(z, 1.2) < 0.08) | (_phase(s, 0.8) < 0.08)))
    curb = (np.abs(across - world.road - 0.1) < 0.12) & ~crossed
    tone += 0.22 * curb
    dash = (across < 0.09) & (_phase(z, 6) < 0.53)
    edge = np.abs(across - world.road + 2.1) < 0.06
    zebra = np.zeros(z.shape, bool)
    if world.crossing:
        z0, z1 = world.crossing
        zebra = (z > z0) & (z < z1) & (_phase(s, 1.1) < 0.5) & (across < world.road - 0.3)
    paint = (dash | (edge & (world.walk > 2.8)) | zebra) & (road & ~crossed | zebra)
    color = np.asarray((style.paving, style.asphalt, (0.86, 0.86, 0.86)), np.float32)[np.where(paint, 2, road)]
    shadow = np.asarray(canvas.shadow).ravel()[pixels].astype(np.float32) * np.float32(0.55 / 255)
    ambient, sun = style.light
    tone *= (ambient + 0.7 * sun) * (1 - shadow)
    out.color.reshape(-1, 3)[pixels] = color * tone[:, None]
    out.label.ravel()[pixels] = np.where(road, ROAD, SIDEWALK)
    out.depth.ravel()[pixels] = z


def _phase(x: Array, period: float) -> Array:
    """Place within the period, 0..1."""
    turns = x * np.float32(1 / period)
    return turns - np.floor(turns)


def _facades(out: Surfaces, canvas: Canvas, dx: Array, dy: Array, world: World, style: Style, tile: Array) -> None:
    """Intersect each ray with its wall; windows, shops and roofs are functions of the place on the wall."""
    c, facades = canvas.camera, world.facades
    pixels = np.flatnonzero(out.label == BUILDING)
    k = out.owner.ravel()[pixels] - 1
    rows = [(c.bend(f.s0, f.z0), f.z0, c.bend(f.s1, f.z1), f.z1, f.bay, f.height - f.roof, *f.window) for f in facades]
    table = np.ascontiguousarray(np.asarray(rows, np.float32).T)
    x0, z0, x1, z1, _, eaves, wide, high = (column[k] for column in table)
    slope = dx.ravel()[pixels]
    bottom = (x1 - x0) - slope * (z1 - z0)
    t = np.clip((slope * z0 - x0) / np.where(np.abs(bottom) < 1e-6, np.float32(1e-6), bottom), 0, 1)
    z = z0 + t * (z1 - z0)
    up = c.above + dy.ravel()[pixels] * z
    bays = np.hypot(table[2] - table[0], table[3] - table[1]) / table[4]
    column, floor = t * bays[k], up * np.float32(1 / 3.1)
    i, j = np.floor(column).astype(np.int32), np.floor(floor).astype(np.int32)
    fx, fy = np.abs(column - i - 0.5), np.abs(floor - j - 0.5)
    chance = tile[(i + 7 * k) & 63, (j * 5 + k) & 63] + 0.5
    street, roof = j == 0, up > eaves
    wide, high = np.where(street, 0.4, 0.5 * wide), np.where(street, 0.36, 0.5 * high)
    window = (fx < wide) & (fy < high) & ~roof
    frame = (fx < wide + 0.05) & (fy < high + 0.05)
    lit = window & (chance < style.lit_windows * np.where(street, 2.2, 1))
    awning = street & (floor > 0.84) & (k % 3 < 2)
    part = np.where(window, 4 + lit, np.where(roof, 3, np.where(awning, 2, frame)))
    grain = 1 + 0.12 * tile[(column * 11).astype(np.int32) & 63, (up * 9).astype(np.int32) & 63]
    tone = np.where(window, 0.34 + 0.5 * np.maximum(chance, 0.5 * lit), grain)
    out.color.reshape(-1, 3)[pixels] = _wall_colors(world, style)[part, k] * tone[:, None]
    out.depth.ravel()[pixels] = z
    out.emission.ravel()[pixels] = lit * np.float32(0.85)


def _wall_colors(world: World, style: Style) -> Array:
    """Colors (6, F, 3) under this light: wall, window frame, awning, roof, glass mirroring sky, lit glass."""
    wall = np.asarray([f.color for f in world.facades], np.float32)
    accent = np.asarray([f.accent for f in world.facades], np.float32)
    facing = [max(0.0, f.normal[0] * world.sun[0] + f.normal[1] * world.sun[1]) for f in world.facades]
    light = style.light[0] + style.light[1] * np.asarray(facing, np.float32)[:, None]
    roof = np.broadcast_to(np.asarray((0.42, 0.25, 0.21), np.float32), wall.shape)
    glass = np.broadcast_to(0.1 + 0.75 * np.asarray(style.sky[1], np.float32), wall.shape)
    lamp = np.broadcast_to(np.asarray((1.5, 1.2, 0.7), np.float32), wall.shape)
    return np.stack((wall * light, (0.35 + 0.6 * wall) * light, accent * light, roof * light, glass, lamp))
