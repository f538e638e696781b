"""MaxSquare with image-wise weights against loops over pixels and closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sfda_kernels
from benchmarks.common.methods.max_square import image_weighted_loss


def logit_maps(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_loops(logits: Tensor, size: tuple[int, int], ratio: float) -> Tensor:
    probabilities = F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(1)
    batch, classes, height, width = probabilities.shape
    total = probabilities.new_zeros(())
    for image in probabilities:
        predicted = [[int(image[:, y, x].argmax()) for x in range(width)] for y in range(height)]
        count = [sum(row.count(c) for row in predicted) for c in range(classes)]
        for y in range(height):
            for x in range(width):
                weight = 1 / (count[predicted[y][x]] ** ratio * (height * width) ** (1 - ratio))
                total = total - weight * (image[:, y, x] ** 2).sum()
    return total / (batch * classes)


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(2, 4), st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(2, 6), st.integers(2, 7)),
    st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    st.integers(0, 99),
)
def test_value_and_gradient_against_loops(
    shape: tuple[int, int, int, int], size: tuple[int, int], ratio: float, seed: int
) -> None:
    logits = logit_maps(*shape, seed=seed).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    loss, expected = image_weighted_loss(logits, size, ratio=ratio), by_loops(exact, size, ratio)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    (3.7 * loss).backward()
    (3.7 * expected).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 5])
def test_uniform_and_one_hot_predictions(classes: int) -> None:
    """One class everywhere: each pixel weighs 1/n, so -sum p^2 / K is left: p^2 sums to 1/K or to 1."""
    logits = torch.zeros(3, classes, 4, 6)
    assert image_weighted_loss(logits, (8, 12)).item() == pytest.approx(-1 / classes**2, rel=1e-5)
    logits[:, 1] = 60
    assert image_weighted_loss(logits, (8, 12)).item() == pytest.approx(-1 / classes, rel=1e-5)


def test_equal_halves_of_two_certain_classes() -> None:
    """n/2 pixels each: weight 1 / ((n/2)^r n^(1-r)) = 2^r / n, so the loss is -2^r / K."""
    logits = torch.zeros(1, 3, 4, 4)
    logits[:, 0, :2], logits[:, 2, 2:] = 80, 80
    for ratio in (0.2, 0.5, 1.0):
        loss = image_weighted_loss(logits, (4, 4), ratio=ratio)
        assert loss.item() == pytest.approx(-(2**ratio) / 3, rel=1e-5)


def test_without_weighting_it_is_plain_max_square_over_the_classes() -> None:
    logits = logit_maps(3, 4, 5, 6, seed=1)
    plain = sfda_kernels.patch_entropy(logits, 1, (10, 12)).max_square
    torch.testing.assert_close(image_weighted_loss(logits, (10, 12), ratio=0.0), plain / 2)
    logits[:, 2] += 50  # one class everywhere: no ratio matters
    plain = sfda_kernels.patch_entropy(logits, 1, (10, 12)).max_square
    torch.testing.assert_close(image_weighted_loss(logits, (10, 12)), plain / 2)


def test_a_rare_class_gets_the_larger_gradient() -> None:
    """Two equally undecided pixels, one of a class with 1 pixel, one of a class with 15: the ratio is 15^0.2."""
    logits = torch.zeros(1, 2, 4, 4)
    logits[0, 0], logits[0, 0, 0, 0], logits[0, 1, 0, 0] = 1.0, 0.0, 1.0
    logits.requires_grad_()
    image_weighted_loss(logits, (4, 4)).backward()
    assert logits.grad is not None
    size = logits.grad[0, 0].abs()
    assert (size[0, 0] / size[1, 1]).item() == pytest.approx(15**0.2, rel=1e-4)


def test_bfloat16_logits_give_an_fp32_loss() -> None:
    logits = logit_maps(2, 3, 6, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = image_weighted_loss(logits, (6, 6))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, image_weighted_loss(logits.float(), (6, 6)))
