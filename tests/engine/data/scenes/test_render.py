"""Procedural scenes: deterministic, well-formed, balanced, and each domain looks as its name says."""

from __future__ import annotations

from functools import cache
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sfda_engine.data.classes import IGNORE, class_set
from sfda_engine.data.images import ImageSize
from sfda_engine.data.scenes.layout import lay_out, place_camera
from sfda_engine.data.scenes.render import DOMAINS, Scene, render_scene
from sfda_engine.data.scenes.style import STYLES
from sfda_engine.errors import UserError

NAMES = class_set("scenes").names
FRAMES = 30


@cache
def frames(domain: str) -> tuple[Scene, ...]:
    return tuple(render_scene(domain, 500 + i) for i in range(FRAMES))


def gray(scene: Scene) -> NDArray[np.float64]:
    return scene.image.mean(axis=2)


def above_ground(scene: Scene) -> NDArray[np.float64]:
    """Gray values of everything but sky, road and sidewalk."""
    return gray(scene)[~np.isin(scene.label, [NAMES.index(name) for name in ("sky", "road", "sidewalk")])]


def test_the_domains_have_styles_and_the_classes_their_ids() -> None:
    assert set(STYLES) == set(DOMAINS)
    assert NAMES == ("road", "sidewalk", "building", "pole", "sign", "vegetation", "sky", "person", "car")


@settings(max_examples=20, deadline=None)
@given(
    domain=st.sampled_from(DOMAINS),
    seed=st.integers(0, 2**40),
    width=st.integers(32, 150),
    height=st.integers(32, 110),
)
def test_any_size_is_well_formed_and_repeatable(domain: str, seed: int, width: int, height: int) -> None:
    scene, again = render_scene(domain, seed, (width, height)), render_scene(domain, seed, (width, height))
    assert scene.image.shape == (height, width, 3)
    assert scene.label.shape == (height, width)
    assert scene.image.dtype == scene.label.dtype == np.uint8
    assert scene.image.tobytes() == again.image.tobytes()
    assert scene.label.tobytes() == again.label.tobytes()
    ids = set(np.unique(scene.label).tolist())
    assert ids <= {*range(len(NAMES)), IGNORE}
    assert (scene.label == IGNORE).mean() < 0.08


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_class_is_seen_often_enough(domain: str) -> None:
    counts = np.array([np.bincount(s.label.ravel(), minlength=256)[: len(NAMES)] for s in frames(domain)])
    seen = dict(zip(NAMES, (counts >= 10).mean(axis=0), strict=True))
    for name in ("road", "sidewalk", "building", "sky", "vegetation", "car"):
        assert seen[name] >= 0.6, (name, seen)
    for name in ("person", "pole", "sign"):
        assert seen[name] >= 0.25, (name, seen)


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_street_lies_below_the_sky(domain: str) -> None:
    rows = np.arange(96)[:, None] * np.ones((1, 128))
    for scene in frames(domain)[:10]:
        assert rows[scene.label == NAMES.index("road")].mean() > 60
        assert rows[scene.label == NAMES.index("sky")].mean() < 45


def test_seeds_and_domains_differ() -> None:
    first = [frames(domain)[0] for domain in DOMAINS] + [frames("day")[1]]
    assert len({scene.image.tobytes() for scene in first}) == len(first)
    assert len({scene.label.tobytes() for scene in first}) == len(first)


def test_day_has_blue_skies_and_green_leaves() -> None:
    sky = np.concatenate([s.image[s.label == NAMES.index("sky")] for s in frames("day")]).astype(float)
    leaf = np.concatenate([s.image[s.label == NAMES.index("vegetation")] for s in frames("day")]).astype(float)
    road = np.concatenate([s.image[s.label == NAMES.index("road")] for s in frames("day")]).astype(float)
    assert sky[:, 2].mean() > sky[:, 0].mean() + 20
    assert sky.mean() > road.mean() + 40
    assert leaf[:, 1].mean() > max(leaf[:, 0].mean(), leaf[:, 2].mean()) + 10


def test_targets_shift_as_their_names_say() -> None:
    mean = {domain: np.mean([gray(s).mean() for s in frames(domain)]) for domain in DOMAINS}
    contrast = {domain: np.mean([above_ground(s).std() for s in frames(domain)]) for domain in DOMAINS}
    channel = {domain: np.mean([s.image.mean(axis=(0, 1)) for s in frames(domain)], axis=0) for domain in DOMAINS}
    assert mean["night"] < 0.65 * mean["day"]
    assert contrast["fog"] < 0.8 * contrast["day"]
    assert contrast["rain"] < 0.9 * contrast["day"]
    assert np.ptp(channel["rain"]) < np.ptp(channel["day"])  # desaturated
    assert channel["city"][0] - channel["city"][2] > 5 > channel["day"][0] - channel["day"][2]  # warm haze
    assert channel["camera"][1] > max(channel["camera"][0], channel["camera"][2])  # green cast


def test_fog_thickens_with_distance() -> None:
    """Far road (the upper part of it) has lost contrast and taken the color of the air; near road has not."""
    lift = {}
    for domain in ("day", "fog"):
        far, near = [], []
        for scene in frames(domain):
            road = scene.label == NAMES.index("road")
            rows = np.flatnonzero(road.any(axis=1))
            far.append(gray(scene)[rows[2] : rows[2] + 4][road[rows[2] : rows[2] + 4]].mean())
            near.append(gray(scene)[-6:][road[-6:]].mean())
        lift[domain] = np.mean(far) - np.mean(near)
    assert lift["fog"] > 25 + lift["day"]


def test_camera_bonnet_is_the_only_ignored_part() -> None:
    for domain in DOMAINS:
        ignored = np.stack([s.label == IGNORE for s in frames(domain)])
        assert ignored.any() == (domain == "camera")
        assert not ignored[:, :85].any()


@pytest.mark.parametrize("domain", DOMAINS)
def test_rays_undo_the_projection(domain: str) -> None:
    """A ground point projected to a pixel is found again along that pixel's ray."""
    dice = Random(3)
    world = lay_out(dice, STYLES[domain])
    camera = place_camera(dice, STYLES[domain], (256, 192), world.road)
    dx, dy = camera.rays()
    for s, z in ((-2.0, 9.0), (0.5, 14.0), (3.0, 20.0)):
        u, v = camera.project(s, 0.0, z)
        column, row = int(u), int(v)
        depth = camera.above / -dy[row, column]
        assert depth == pytest.approx(z, rel=2 * z / (camera.focal * camera.above))
        assert dx[row, column] * z == pytest.approx(camera.bend(s, z), abs=1.5 * z / camera.focal)


# Mean gray value, car pixels, vegetation pixels of frame 0 at 128x96.
DRAWN = {
    "day": (136.3, 941, 813),
    "fog": (138.8, 241, 1602),
    "night": (55.4, 386, 677),
    "rain": (109.6, 131, 1378),
    "city": (123.8, 324, 639),
    "camera": (100.1, 249, 371),
}


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_drawing_has_not_changed(domain: str) -> None:
    """The bundled source model was trained on these very frames: a change of the drawing asks for a new model."""
    scene = render_scene(domain, 0)
    mean, cars, leaves = DRAWN[domain]
    assert gray(scene).mean() == pytest.approx(mean, abs=0.3)
    assert (scene.label == NAMES.index("car")).sum() == pytest.approx(cars, abs=8)
    assert (scene.label == NAMES.index("vegetation")).sum() == pytest.approx(leaves, abs=8)


@pytest.mark.parametrize(
    ("domain", "seed", "size", "message"),
    [
        ("foggy", 0, (128, 96), "'fog'"),
        ("snow", 0, (128, 96), "day, fog, night, rain, city, camera"),
        ("day", 0, (31, 96), "31x96.*at least 32"),
        ("day", 0, (96, 8), "96x8"),
        ("day", -1, (128, 96), "seed is -1"),
    ],
)
def test_bad_input_is_explained(domain: str, seed: int, size: tuple[int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        render_scene(domain, seed, ImageSize(*size))
