"""The pseudo-label loss against loops over pixels, and what its weights do."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfda_engine.data.folder import IGNORE
from sfda_engine.losses.pseudo_label import SMOOTHING, pseudo_label_loss


def by_loops(logits: Tensor, labels: Tensor) -> Tensor:
    logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    batch, classes, height, width = logits.shape
    pixels = [(b, y, x) for b in range(batch) for y in range(height) for x in range(width)]
    pixels = [(b, y, x) for b, y, x in pixels if labels[b, y, x] != IGNORE]
    wanted, predicted = [SMOOTHING] * classes, [SMOOTHING] * classes
    for b, y, x in pixels:
        wanted[int(labels[b, y, x])] += 1
        predicted[int(logits[b, :, y, x].argmax())] += 1
    total, weight = logits.new_zeros(()), 0.0
    for b, y, x in pixels:
        label = int(labels[b, y, x])
        factor = wanted[label] / predicted[label]
        total = total + factor * (logits[b, :, y, x].logsumexp(0) - logits[b, label, y, x])
        weight += factor
    return total / max(weight, 1)


def label_maps(shape: tuple[int, int, int], classes: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes + 1, shape, generator=generator)
    return torch.where(labels == classes, IGNORE, labels)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(2, 4), st.integers(1, 3), st.integers(2, 6), st.integers(0, 99))
def test_value_and_gradient_against_loops(batch: int, classes: int, low: int, high: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (2 * torch.randn(batch, classes, low, low + 1, generator=generator)).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    labels = label_maps((batch, high, high + 2), classes, seed)
    loss, expected = pseudo_label_loss(logits, labels), by_loops(exact, labels)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    (2.3 * loss).backward()
    (2.3 * expected).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


def test_a_batch_without_a_label_has_no_loss_and_no_gradient() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = pseudo_label_loss(logits, torch.full((2, 8, 8), IGNORE))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_a_forgotten_class_weighs_more() -> None:
    """All pixels predicted 0, a quarter labelled 1: class 1 weighs (n/4 + s) / s, class 0 (3n/4 + s) / (n + s)."""
    logits = torch.zeros(1, 2, 16, 16)
    logits[:, 0] = 1
    labels = torch.zeros(1, 16, 16, dtype=torch.int64)
    labels[:, :4] = 1
    zero, one = (192 + SMOOTHING) / (256 + SMOOTHING), (64 + SMOOTHING) / SMOOTHING
    wrong, right = math.log(math.e + 1), math.log(math.e + 1) - 1
    expected = (64 * one * wrong + 192 * zero * right) / (64 * one + 192 * zero)
    assert abs(pseudo_label_loss(logits, labels).item() - expected) < 1e-5
