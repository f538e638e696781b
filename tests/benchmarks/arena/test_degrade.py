"""Degraded targets: what each kind does to a frame, by a measure of its own, and that labels stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("albumentations")

from benchmarks.arena.degrade import KINDS, MOST, Kind, degrade


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Frames with edges, and labels for them."""
    root = tmp_path / "target"
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:, ::8], frame[12:] = 220, 90
    frame[:, 32:] += 20
    for index in range(MOST + 4):
        Image.fromarray(frame).save(root / "images" / f"{index:03d}.jpg", quality=95)
        Image.fromarray(frame[..., 0] // 100).save(root / "labels" / f"{index:03d}.png")
    return root


def first(folder: Path) -> np.ndarray:
    with Image.open(min((folder / "images").iterdir())) as image:
        return np.asarray(image.convert("RGB")).astype(float)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_done_to_a_frame(kind: Kind, target: Path, tmp_path: Path) -> None:
    before, after = first(target), first(degrade(target, kind, tmp_path / kind))
    edges = np.abs(np.diff(after, axis=1)).mean() / np.abs(np.diff(before, axis=1)).mean()
    assert after.shape == before.shape
    assert {
        "dark": after.mean() < 0.6 * before.mean(),
        "noise": np.abs(after - before).mean() > 3,
        "defocus": edges < 0.8,
        "fog": after.mean() > before.mean(),
        "jpeg": 1 < np.abs(after - before).mean() < 40,
    }[kind]


def test_it_is_the_same_each_time_and_labels_are_linked(target: Path, tmp_path: Path) -> None:
    once, again = degrade(target, "noise", tmp_path / "once"), degrade(target, "noise", tmp_path / "again")
    assert np.array_equal(first(once), first(again))
    assert len(list((once / "images").iterdir())) == len(list((once / "labels").iterdir())) == MOST
    label = min((once / "labels").iterdir())
    assert label.read_bytes() == (target / "labels" / label.name).read_bytes()
