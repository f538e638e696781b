"""Samples of any size with the moments of normalized source images, and gradients back to the first layer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sfda_engine.models.generator import Generator, View


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


@pytest.mark.parametrize(("top", "left", "size"), [(0, 0, (32, 64)), (37, 51, (40, 33)), (68, 128, (32, 64))])
def test_a_window_is_the_part_of_the_whole(top: int, left: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    generator = Generator((100, 192), width=4).eval().double()
    z = torch.randn(2, 256, dtype=torch.float64)
    whole = generator(z)
    part = generator(z, View(size, (top, left)))
    torch.testing.assert_close(part, whole[..., top : top + size[0], left : left + size[1]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(24, 40), (48, 80), (50, 90), (96, 160)])
def test_the_same_weights_draw_other_sizes_of_the_same_frame(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    generator = Generator((48, 80), width=4)
    z = torch.randn(2, 256)
    samples = generator(z, View(size))
    assert samples.shape == (2, 3, *size)
    variance, mean = torch.var_mean(samples.double(), dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(mean, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-4)
    torch.testing.assert_close(variance, torch.ones(3, dtype=torch.float64), rtol=0, atol=5e-3)
    # the layout is that of the same latents' frame, in coarse cells, and not that of others
    frames = (samples, generator(z), generator(torch.randn(2, 256)))
    coarse = torch.stack([functional.adaptive_avg_pool2d(images, (3, 5)).flatten() for images in frames])
    own, other = torch.corrcoef(coarse)[0, 1:]
    assert own > other + 0.25


def test_a_window_costs_what_a_window_costs() -> None:
    generator = Generator((256, 512), width=4)
    drawn = []
    generator.to_image.register_forward_pre_hook(lambda _, inputs: drawn.append(inputs[0][0, 0].numel()))
    generator(torch.randn(2, 256), View((32, 64), (96, 160)))
    assert drawn == [34 * 66]


def test_features_of_a_view() -> None:
    features = torch.arange(8 * 16.0).view(1, 1, 8, 16)
    assert View((32, 64)).of_features(features, (64, 128)) is features
    assert torch.equal(View((32, 64), (16, 32)).of_features(features, (64, 128)), features[..., 2:6, 4:12])
