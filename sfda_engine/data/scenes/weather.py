"""From a street in even light to what a camera records: night, fog, rain, haze, a cheap sensor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from sfda_engine.data.scenes.canvas import ROAD, SIDEWALK, SKY, Light
from sfda_engine.data.scenes.world import Camera

Array = NDArray[np.float32]


@dataclass
class Frame:
    """One frame at its final size: color (H, W, 3) in 0..1, label, depth in meters, emission in 0..1 (H, W).

    `camera` is that of the supersampled canvas, whose pixel coordinates `lights` (the visible ones) use.
    """

    color: Array
    label: NDArray[np.uint8]
    depth: Array
    emission: Array
    camera: Camera
    lights: list[Light]


def day(frame: Frame, rng: np.random.Generator) -> None:
    _airlight(frame, (0.78, 0.85, 0.93), 0.0022)
    frame.color *= np.float32(rng.uniform(0.65, 1.2) * (1 + rng.uniform(-0.08, 0.08, 3)))
    _noise(frame, rng, 0.012)


def fog(frame: Frame, rng: np.random.Generator) -> None:
    """Airlight after Koschmieder: transmission exp(-beta * depth)."""
    shade = rng.uniform(0.70, 0.80)
    _airlight(frame, (shade, shade + 0.01, shade + 0.025), rng.uniform(0.018, 0.030))
    frame.color *= 0.95
    frame.color += 0.04
    _noise(frame, rng, 0.012)


def night(frame: Frame, rng: np.random.Generator) -> None:
    """Street lamps, headlights and moonlight instead of daylight; glow around every visible lamp."""
    light = _lamplight(frame)
    glowing = frame.emission[..., None]
    frame.color *= glowing + (1 - glowing) * light
    frame.color += _glow(frame)
    frame.color *= _rgb(1.3, 1.26, 1.24)
    _noise(frame, rng, 0.028)


def rain(frame: Frame, rng: np.random.Generator) -> None:
    """Wet road that mirrors the street, mist, streaks, drops on the windscreen."""
    _mirror(frame, rng)
    _airlight(frame, (0.60, 0.63, 0.67), 0.009)
    gray = frame.color.mean(axis=2, keepdims=True)
    frame.color = np.float32(0.76) * (gray + 0.5 * (frame.color - gray)) + 0.08
    _streaks(frame, rng)
    _drops(frame, rng)
    _noise(frame, rng, 0.015)


def city(frame: Frame, rng: np.random.Generator) -> None:
    """Warm haze under a low sun."""
    _airlight(frame, (0.92, 0.87, 0.80), 0.005)
    frame.color *= _rgb(1.03, 1.0, 0.92) * np.float32(rng.uniform(0.9, 1.05))
    frame.color += _rgb(0.03, 0.02, 0.0)
    _noise(frame, rng, 0.012)


def camera(frame: Frame, rng: np.random.Generator) -> None:
    """Own bonnet (ignored), soft lens, vignette, green cast, flat contrast, noise, block artifacts."""
    _bonnet(frame)
    image = Image.fromarray(to_bytes(frame.color)).filter(ImageFilter.GaussianBlur(frame.color.shape[1] / 220))
    color = np.asarray(image, np.float32) * np.float32(1 / 255)
    height, width = frame.depth.shape
    v, u = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    color *= (1.1 - 0.32 * (u * u + v * v))[..., None]
    frame.color = color * _rgb(0.74, 0.84, 0.72) + _rgb(0.07, 0.09, 0.07)
    _noise(frame, rng, 0.036)
    frame.color = _blocks(frame.color)


def to_bytes(color: Array) -> NDArray[np.uint8]:
    """Color in 0..1 -> uint8, clipped and rounded."""
    return (np.clip(color, 0, 1) * 255 + 0.5).astype(np.uint8)


def _rgb(red: float, green: float, blue: float) -> Array:
    return np.asarray((red, green, blue), np.float32)


def _airlight(frame: Frame, color: tuple[float, float, float], beta: float) -> None:
    through = np.exp(frame.depth * np.float32(-beta))
    through[frame.label == SKY] = max(0.0, 1 - 25 * beta)
    air = _rgb(*color)
    frame.color = air + (frame.color - air) * through[..., None]


def _noise(frame: Frame, rng: np.random.Generator, sigma: float) -> None:
    frame.color += rng.standard_normal(frame.color.shape, dtype=np.float32) * np.float32(sigma)


def _lamplight(frame: Frame) -> Array:
    """Illumination (H, W, 3): moon, own headlights ahead, the nearest street lamps by distance squared."""
    c = frame.camera
    height, width = frame.depth.shape
    dx, dy = (a[:: c.height // height, :: c.width // width][:height, :width] for a in c.rays())
    z = np.minimum(frame.depth, np.float32(120))
    x, y = dx * z, dy * z
    beam = 9 / (6 + z) * np.exp(-((dx / 0.35) ** 2) - ((dy + 0.06) / 0.16) ** 2) * (z < 60)
    light = _rgb(0.17, 0.19, 0.28) + beam[..., None] * _rgb(0.62, 0.60, 0.52)
    lamps = [lamp for lamp in frame.lights if lamp.place[1] > 4]
    warm = np.zeros_like(z)
    for lamp in sorted(lamps, key=lambda lamp: lamp.place[2])[:5]:
        s, high, far = lamp.place
        warm += 22 / (14 + (x - c.bend(s, far)) ** 2 + 0.35 * (y - high + c.above) ** 2 + (z - far) ** 2)
    return np.asarray(light + warm[..., None] * _rgb(0.62, 0.44, 0.22), np.float32)


def _glow(frame: Frame) -> Array:
    c = frame.camera
    height, width = frame.depth.shape
    scale = width / c.width
    disc = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(disc)
    for lamp in frame.lights:
        r, u, v = max(0.7, lamp.radius * scale), lamp.u * scale, lamp.v * scale
        red, green, blue = (int(255 * ch) for ch in lamp.color)
        draw.ellipse((u - r, v - r, u + r, v + r), fill=(red, green, blue))
    halo = disc.filter(ImageFilter.GaussianBlur(width / 50))
    return (np.asarray(disc, np.float32) * 0.9 + np.asarray(halo, np.float32) * 1.8) * np.float32(1 / 255)


def _mirror(frame: Frame, rng: np.random.Generator) -> None:
    """Blend the ground with the picture upside down about the horizon, smeared along the columns."""
    height, width = frame.depth.shape
    horizon = frame.camera.horizon * height / frame.camera.height
    rows = np.clip(2 * horizon - np.arange(height), 0, height - 1).astype(np.int32)
    small = Image.fromarray(to_bytes(frame.color[rows])).resize((width, max(2, height // 6)), Image.Resampling.BOX)
    mirrored = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR), np.float32) * np.float32(1 / 255)
    puddles = Image.fromarray(rng.random((10, 6), dtype=np.float32)).resize((width, height), Image.Resampling.BICUBIC)
    wet = np.clip(0.1 + 0.6 * np.asarray(puddles), 0, 0.65) * np.isin(frame.label, (ROAD, SIDEWALK))
    frame.color += (mirrored - frame.color) * wet[..., None].astype(np.float32)


def _streaks(frame: Frame, rng: np.random.Generator) -> None:
    height, width = frame.depth.shape
    image = Image.new("L", (width, height))
    draw = ImageDraw.Draw(image)
    slant = rng.uniform(-0.25, 0.25)
    for u, v, long in rng.random((max(12, width * height // 170), 3)).tolist():
        length = (0.05 + 0.1 * long) * height
        u, v = u * width, v * height
        draw.line((u, v, u + slant * length, v + length), fill=int(20 + 45 * long))
    frame.color += np.asarray(image, np.float32)[..., None] * np.float32(0.8 / 255)


def _drops(frame: Frame, rng: np.random.Generator) -> None:
    """Drops are little lenses: inside, the picture is out of focus and brighter at the lower rim."""
    height, width = frame.depth.shape
    sharp = Image.fromarray(to_bytes(frame.color))
    blurred = sharp.filter(ImageFilter.GaussianBlur(width / 32))
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    for u, v, size in rng.random((12, 3)).tolist():
        r = width * (0.008 + 0.022 * size)
        u, v = u * width, v * height
        draw.ellipse((u - r, v - 1.2 * r, u + r, v + 1.2 * r), fill=215)
    sharp.paste(blurred, mask=mask)
    frame.color = np.asarray(sharp, np.float32) * np.float32(1 / 255)


def _bonnet(frame: Frame) -> None:
    height, width = frame.depth.shape
    v, u = np.ogrid[:height, :width]
    arc = (u / width - 0.5) ** 2 * 0.25 + 0.93
    bonnet = v / height > arc
    frame.color[bonnet] = (0.12, 0.13, 0.15)
    frame.label[bonnet] = 255


def _blocks(color: Array) -> Array:
    """Coarse quantization of the 8x8 cosine transform, as a strong JPEG does it."""
    height, width = color.shape[:2]
    tall, wide = -(-height // 8), -(-width // 8)
    padded = np.pad(color, ((0, tall * 8 - height), (0, wide * 8 - width), (0, 0)), mode="edge")
    blocks = padded.reshape(tall, 8, wide, 8, 3).transpose(0, 2, 4, 1, 3)
    n = np.arange(8)
    dct = np.cos(np.pi * (n + 0.5) * n[:, None] / 8) * np.sqrt(np.where(n[:, None] == 0, 1, 2) / 8)
    dct = dct.astype(np.float32)
    step = (0.04 + 0.025 * (n + n[:, None])).astype(np.float32)
    quantized = np.rint(dct @ blocks @ dct.T / step) * step
    out = (dct.T @ quantized @ dct).transpose(0, 3, 1, 4, 2).reshape(tall * 8, wide * 8, 3)
    return out[:height, :width]
