"""Procedural street scenes: a source domain (day) and five targets that shift weather, city or camera."""

from __future__ import annotations

from difflib import get_close_matches
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfda_engine.data.images import ImageSize
from sfda_engine.data.scenes import weather
from sfda_engine.data.scenes.canvas import Canvas
from sfda_engine.data.scenes.layout import lay_out, place_camera
from sfda_engine.data.scenes.paint import paint
from sfda_engine.data.scenes.style import STYLES
from sfda_engine.data.scenes.surfaces import Surfaces, texture
from sfda_engine.errors import UserError

DOMAINS = ("day", "fog", "night", "rain", "city", "camera")
MIN_SIZE = 32
SUPERSAMPLE = 2

_WEATHER = {
    "day": weather.day,
    "fog": weather.fog,
    "night": weather.night,
    "rain": weather.rain,
    "city": weather.city,
    "camera": weather.camera,
}


SIZE = ImageSize(128, 96)


class Scene(NamedTuple):
    """image (H, W, 3) uint8 RGB; label (H, W) uint8 train ids of the class set "scenes", 255 = ignore."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]


def render_scene(domain: str, seed: int, size: ImageSize = SIZE) -> Scene:
    """Frame `seed` of a domain at `size` (width, height), both at least 32.

    The same arguments give the same bytes (same versions of numpy and Pillow). UserError: unknown domain,
    size too small, negative seed.
    """
    _check(domain, seed, size)
    rng = np.random.default_rng((DOMAINS.index(domain), seed))
    dice = Random(int(rng.integers(2**62)))
    style = STYLES[domain]
    width, height = size
    world = lay_out(dice, style)
    camera = place_camera(dice, style, ImageSize(SUPERSAMPLE * width, SUPERSAMPLE * height), world.road)
    canvas = paint(world, camera, style)
    frame = _reduce(texture(canvas, world, style, rng), canvas)
    _WEATHER[domain](frame, rng)
    return Scene(weather.to_bytes(frame.color), frame.label)


def _check(domain: str, seed: int, size: ImageSize) -> None:
    if domain not in DOMAINS:
        close = get_close_matches(domain, DOMAINS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"no scene domain is called {domain!r}: choose one of {', '.join(DOMAINS)}{hint}")
    if min(size) < MIN_SIZE:
        raise UserError(f"scene size is {size.width}x{size.height}: give a width and a height of at least {MIN_SIZE}")
    if seed < 0:
        raise UserError(f"scene seed is {seed}: give a seed of 0 or more")


def _reduce(surfaces: Surfaces, canvas: Canvas) -> weather.Frame:
    """Average the colors over 2x2 pixels; label and depth come from one pixel of the four."""
    k = SUPERSAMPLE
    height, width = surfaces.label.shape
    parts = [surfaces.color[i::k, j::k] for i in range(k) for j in range(k)]
    color = np.divide(sum(parts[1:], parts[0]), np.float32(k * k), dtype=np.float32)
    visible = [
        light
        for light in canvas.lights
        if 0 <= light.u < width and 0 <= light.v < height and surfaces.owner[int(light.v), int(light.u)] == light.owner
    ]
    return weather.Frame(
        color,
        surfaces.label[::k, ::k].copy(),
        surfaces.depth[::k, ::k],
        surfaces.emission[::k, ::k],
        canvas.camera,
        visible,
    )
