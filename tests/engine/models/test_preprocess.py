"""Normalization against float64 numpy, exposure against bisection in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfda_engine.errors import UserError
from sfda_engine.models.preprocess import Normalization, Preprocess, gamma_exposure


def bisected_gamma(frame: torch.Tensor, mean_luminance: float) -> float:
    """The gamma in [0.2, 5] whose power of the clamped luma has the wanted mean (the nearer end if none)."""
    red, green, blue = frame.double().numpy()
    luma = np.clip(0.299 * red + 0.587 * green + 0.114 * blue, 1 / 255, 1)
    low, high = 0.2, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        if (luma**middle).mean() > mean_luminance:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    power=st.floats(0.02, 40.0),
    contrast=st.booleans(),
    mean_luminance=st.floats(0.35, 0.68),
    size=st.tuples(st.integers(2, 24), st.integers(2, 24)),
)
def test_gamma_exposure_against_bisection(
    seed: int, power: float, contrast: bool, mean_luminance: float, size: tuple[int, int]
) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    images = (images > 0.8).float() * 0.98 + 0.01 if contrast else images
    images = images**power
    exposed = gamma_exposure(images, mean_luminance)
    for frame, result in zip(images, exposed, strict=True):
        expected = frame.double().clamp(1 / 255, 1) ** bisected_gamma(frame, mean_luminance)
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=2e-5)


def test_gamma_exposure_is_per_frame_and_reaches_the_mean() -> None:
    gray = torch.rand(1, 1, 20, 20).expand(1, 3, 20, 20)
    images = torch.cat([gray**4, gray**0.3])
    exposed = gamma_exposure(images)
    torch.testing.assert_close(exposed.mean(dim=(1, 2, 3)), torch.tensor([0.45, 0.45]), rtol=0, atol=1e-5)
    torch.testing.assert_close(exposed[:1], gamma_exposure(images[:1]))


@pytest.mark.parametrize(("value", "expected"), [(0.0, (1 / 255) ** 0.2), (1.0, 1.0)])
def test_black_and_white_frames_stay_finite(value: float, expected: float) -> None:
    exposed = gamma_exposure(torch.full((1, 3, 5, 7), value))
    torch.testing.assert_close(exposed, torch.full((1, 3, 5, 7), expected))


@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("value_range", [1.0, 255.0])
def test_normalization_in_network_order_and_range(order: str, value_range: float) -> None:
    mean = tuple(value_range * m for m in (0.1, 0.5, 0.7))
    std = tuple(value_range * s for s in (0.2, 0.3, 0.9))
    images = torch.rand(2, 3, 4, 6)
    result = Preprocess(Normalization(mean, std, order, value_range))(images)  # type: ignore[arg-type]
    pixels = images.double().numpy()[:, :: 1 if order == "rgb" else -1] * value_range
    expected = (pixels - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    torch.testing.assert_close(result.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-5)


def test_preprocess_applies_exposure_before_normalization() -> None:
    images = torch.rand(2, 3, 8, 8) ** 3
    norm = Normalization()
    torch.testing.assert_close(Preprocess(norm, "gamma")(images), Preprocess(norm)(gamma_exposure(images)))


def test_preprocess_has_no_state_of_its_own_and_exports() -> None:
    preprocess = Preprocess(Normalization(channel_order="bgr"), "gamma")
    assert preprocess.state_dict() == {}
    images = torch.rand(2, 3, 8, 8)
    exported = torch.export.export(preprocess, (torch.rand(2, 3, 8, 8),)).module()
    torch.testing.assert_close(exported(images), preprocess(images))


def test_bad_normalization_is_refused() -> None:
    with pytest.raises(UserError, match="three values"):
        Normalization(mean=(0.5, 0.5))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="above 0"):
        Normalization(std=(0.2, 0.0, 0.2))
    with pytest.raises(UserError, match="rgb or bgr"):
        Normalization(channel_order="gbr")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="none or gamma"):
        Preprocess(Normalization(), "auto")  # type: ignore[arg-type]
