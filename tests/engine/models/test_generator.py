"""Samples of any size with the moments of normalized source images, and gradients back to the first layer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfda_engine.models.generator import Generator


@settings(max_examples=20, deadline=None)
@given(height=st.integers(8, 140), width=st.integers(8, 140))
def test_any_size_with_zero_mean_and_unit_variance(height: int, width: int) -> None:
    samples = Generator((height, width), width=4)(torch.randn(2, 256))
    assert samples.shape == (2, 3, height, width)
    variance, mean = torch.var_mean(samples.double(), dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-4)
    torch.testing.assert_close(variance, torch.ones(3, dtype=torch.float64), rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("size", "start"),
    [((8, 8), (1, 1)), ((48, 64), (6, 8)), ((64, 128), (8, 16)), ((95, 95), (6, 6)), ((256, 512), (8, 16))],
)
def test_start_grid(size: tuple[int, int], start: tuple[int, int]) -> None:
    assert Generator(size, width=2).start == start


def test_samples_differ_and_every_parameter_learns() -> None:
    torch.manual_seed(0)
    generator = Generator((24, 40), width=8)
    samples = generator(torch.randn(3, 256))
    assert (samples[0] - samples[1]).abs().mean() > 0.01
    samples.backward(torch.randn_like(samples))
    # The bias before a batch norm has no effect; every other parameter must get a gradient.
    exempt = {"project.bias", "to_image.bias"}
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None
        assert name in exempt or parameter.grad.abs().max() > 1e-6, name


def test_the_crop_is_centered() -> None:
    generator = Generator((20, 20), width=2).eval()
    whole = Generator((24, 24), width=2).eval()
    whole.load_state_dict(generator.state_dict())
    z = torch.randn(1, 256)
    torch.testing.assert_close(generator(z), whole(z)[..., 2:22, 2:22])


def test_latent_size_and_too_small_a_size() -> None:
    assert Generator((16, 16), latent_dim=7, width=2)(torch.randn(2, 7)).shape == (2, 3, 16, 16)
    with pytest.raises(ValueError, match="at least 8 x 8"):
        Generator((7, 64))


@pytest.mark.parametrize(("size", "channels"), [((96, 128), 32), ((99, 512), 32), ((100, 128), 64), ((256, 512), 64)])
def test_sides_under_100_pixels_take_half_the_channels(size: tuple[int, int], channels: int) -> None:
    assert Generator(size).to_image.in_channels == channels
