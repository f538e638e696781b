"""The untouched source beside a view, and how far the view is from it."""

from __future__ import annotations

import pytest

from sfda_engine.data.images import ImageSize
from sfda_engine.views.view import View, by_pixels, departure, untouched


@pytest.mark.parametrize(
    ("view", "exposure", "expected"),
    [
        (View("none", ImageSize(64, 32), 1.0), "none", 0.0),
        (View("gamma", ImageSize(64, 32), 1.0), "gamma", 0.0),
        (View("none", ImageSize(64, 32), 0.25), "none", 0.75),
        (View("gamma", ImageSize(64, 32), 1.0), "none", 1.0),
        (View("none", ImageSize(64, 32), 0.0), "gamma", 2.0),
    ],
)
def test_departure_weighs_statistics_and_exposure(view: View, exposure: str, expected: float) -> None:
    assert departure(view, exposure) == expected  # type: ignore[arg-type]
    assert departure(untouched(view, exposure), exposure) == 0.0  # type: ignore[arg-type]
    assert untouched(view, exposure).size == view.size  # type: ignore[arg-type]


def test_sizes_are_ordered_by_pixels() -> None:
    assert by_pixels([ImageSize(64, 64), ImageSize(100, 10), ImageSize(64, 64), ImageSize(10, 100)]) == [
        ImageSize(10, 100),
        ImageSize(100, 10),
        ImageSize(64, 64),
    ]
