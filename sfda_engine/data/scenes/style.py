"""How the street of each domain is built: meters, degrees, probabilities, colors in 0..1."""

from __future__ import annotations

from dataclasses import dataclass, replace

RGB = tuple[float, float, float]
Span = tuple[float, float]

PLASTER = ((0.80, 0.72, 0.58), (0.74, 0.58, 0.44), (0.66, 0.40, 0.31), (0.78, 0.75, 0.70), (0.58, 0.54, 0.50))
PLASTER_ACCENTS = ((0.45, 0.16, 0.13), (0.13, 0.28, 0.22), (0.16, 0.22, 0.38), (0.42, 0.30, 0.16))
TOWERS = ((0.62, 0.66, 0.70), (0.88, 0.84, 0.76), (0.46, 0.52, 0.56), (0.82, 0.66, 0.50), (0.70, 0.58, 0.52))
TOWER_ACCENTS = ((0.85, 0.45, 0.12), (0.1, 0.42, 0.5), (0.7, 0.14, 0.2))
GREENS = ((0.24, 0.38, 0.13), (0.30, 0.43, 0.16), (0.18, 0.31, 0.13))
DRY_GREENS = ((0.42, 0.44, 0.20), (0.34, 0.42, 0.18), (0.48, 0.43, 0.22))
CARS = ((0.75, 0.76, 0.78), (0.10, 0.10, 0.12), (0.55, 0.10, 0.10), (0.13, 0.22, 0.45), (0.42, 0.44, 0.46))
BRIGHT_CARS = (
    (0.92, 0.92, 0.90),
    (0.93, 0.74, 0.12),
    (0.80, 0.78, 0.72),
    (0.70, 0.12, 0.12),
    (0.2, 0.5, 0.55),
)
CLOTHES = ((0.72, 0.13, 0.13), (0.15, 0.25, 0.55), (0.85, 0.80, 0.70), (0.12, 0.12, 0.14), (0.80, 0.55, 0.15))
COATS = ((0.16, 0.17, 0.22), (0.30, 0.25, 0.20), (0.35, 0.12, 0.14), (0.75, 0.70, 0.25))
TROUSERS = ((0.13, 0.15, 0.22), (0.2, 0.18, 0.16), (0.3, 0.34, 0.45))
SKIN = ((0.85, 0.66, 0.54), (0.68, 0.48, 0.36), (0.42, 0.28, 0.2))


@dataclass(frozen=True)
class Style:
    """`road` is half the width with the parking lane, `light` (ambient, sun), `sky` (zenith, horizon)."""

    road: Span = (4.2, 5.2)
    walk: Span = (3.0, 4.4)
    lot: Span = (8.0, 16.0)
    building: Span = (8.0, 15.0)
    setback: float = 0.6
    garden: float = 0.14
    side_street: float = 0.14
    roof: float = 1.8
    window: Span = (0.38, 0.5)
    walls: tuple[RGB, ...] = PLASTER
    accents: tuple[RGB, ...] = PLASTER_ACCENTS
    leaves: tuple[RGB, ...] = GREENS
    tree_height: Span = (5.0, 8.5)
    palms: float = 0.0
    trees: float = 0.5
    people: tuple[int, int] = (2, 4)
    clothes: tuple[RGB, ...] = CLOTHES
    cars: tuple[RGB, ...] = CARS
    parked: float = 0.4
    driving: float = 0.3
    pole: RGB = (0.36, 0.37, 0.38)
    asphalt: RGB = (0.36, 0.36, 0.38)
    paving: RGB = (0.60, 0.57, 0.54)
    fov: Span = (62, 70)
    pitch: Span = (-4.5, 0.5)
    roll: float = 0.8
    camera_height: Span = (1.5, 1.8)
    curve: float = 0.005
    light: Span = (0.70, 0.42)
    sky: tuple[RGB, RGB] = ((0.30, 0.52, 0.86), (0.74, 0.84, 0.94))
    clouds: float = 0.5
    lit_windows: float = 0.0


DAY = Style()
STYLES = {
    "day": DAY,
    "fog": replace(
        DAY,
        building=(6.0, 11.0),
        garden=0.3,
        lot=(9.0, 18.0),
        clothes=COATS,
        parked=0.35,
        trees=0.6,
        light=(0.86, 0.0),
        sky=((0.70, 0.72, 0.74), (0.76, 0.77, 0.78)),
        clouds=0.0,
    ),
    "night": replace(
        DAY,
        road=(4.6, 5.8),
        building=(9.0, 18.0),
        clothes=COATS,
        parked=0.55,
        driving=0.42,
        light=(0.9, 0.0),
        sky=((0.05, 0.07, 0.16), (0.13, 0.15, 0.26)),
        clouds=0.15,
        lit_windows=0.28,
    ),
    "rain": replace(
        DAY,
        building=(9.0, 19.0),
        garden=0.1,
        clothes=COATS,
        driving=0.45,
        parked=0.35,
        light=(0.86, 0.0),
        asphalt=(0.29, 0.30, 0.32),
        paving=(0.47, 0.46, 0.45),
        sky=((0.62, 0.66, 0.72), (0.80, 0.83, 0.86)),
        clouds=0.25,
    ),
    "city": replace(
        DAY,
        road=(6.0, 7.6),
        walk=(3.5, 5.5),
        lot=(14.0, 26.0),
        building=(22.0, 60.0),
        setback=2.5,
        garden=0.2,
        side_street=0.24,
        roof=0.0,
        window=(0.62, 0.86),
        walls=TOWERS,
        accents=TOWER_ACCENTS,
        leaves=DRY_GREENS,
        tree_height=(6.0, 10.0),
        palms=0.65,
        trees=0.7,
        people=(3, 6),
        cars=BRIGHT_CARS,
        parked=0.35,
        driving=0.45,
        pole=(0.55, 0.52, 0.46),
        asphalt=(0.39, 0.38, 0.37),
        paving=(0.66, 0.60, 0.54),
        fov=(76, 86),
        pitch=(-1.0, 5.0),
        camera_height=(2.0, 2.5),
        light=(0.62, 0.5),
        sky=((0.42, 0.58, 0.80), (0.84, 0.85, 0.82)),
        clouds=0.2,
    ),
    "camera": replace(
        DAY,
        fov=(84, 96),
        pitch=(-8.0, -1.0),
        roll=2.5,
        camera_height=(1.2, 1.4),
        parked=0.5,
        light=(0.74, 0.25),
        sky=((0.66, 0.74, 0.84), (0.88, 0.91, 0.93)),
        clouds=0.4,
    ),
}
