"""Patches against `tensor_split` by hand; both sides of L_ADV (Eq. 15) against -log sigmoid."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sfda_engine.losses.adversarial import adversarial_loss, discriminator_loss, split_patches
from sfda_engine.models.discriminator import PatchDiscriminator

BATCH, GRID, CLASSES = 3, 2, 4
EASY = torch.tensor([[True, False, False, False], [False, True, False, True], [False, False, True, False]])


class FirstValue(nn.Module):
    """Stands for D: the logit is the patch's first value plus a hundredth of its position."""

    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        return patches[:, 0, 0, 0] + positions / 100


def patches(*, requires_grad: bool = False) -> Tensor:
    return torch.randn(BATCH, GRID**2, CLASSES, 6, 5).requires_grad_(requires_grad)


def minus_log_sigmoid(x: float) -> float:
    return -math.log(1 / (1 + math.exp(-x)))


def logits_by_hand(patches: Tensor, easy: bool) -> list[float]:
    return [
        patches[b, p, 0, 0, 0].item() + p / 100
        for b in range(BATCH)
        for p in range(GRID**2)
        if bool(EASY[b, p]) == easy
    ]


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1, 2, 3, 4, 5]),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(5, 17), st.integers(5, 17)),
)
def test_patches_have_the_borders_of_tensor_split(grid: int, shape: tuple[int, int, int, int]) -> None:
    maps = torch.randn(shape)
    result = split_patches(maps, grid)
    height, width = math.ceil(shape[2] / grid), math.ceil(shape[3] / grid)
    assert result.shape == (shape[0], grid * grid, shape[1], height, width)
    rows, columns = (torch.arange(side).tensor_split(grid) for side in shape[2:])
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            piece = maps[:, :, row][:, :, :, column]
            if piece.shape[2:] != (height, width):
                piece = F.interpolate(piece, (height, width), mode="bilinear", align_corners=False)
            torch.testing.assert_close(result[:, i * grid + j], piece)


def test_patches_that_divide_are_numbered_row_by_row_and_copied_exactly() -> None:
    maps = torch.arange(24.0).view(1, 1, 4, 6)
    result = split_patches(maps, 2)
    assert result[0, :, 0, 0, 0].tolist() == [0, 3, 12, 15]
    assert torch.equal(result[0, 1, 0], torch.tensor([[3.0, 4, 5], [9, 10, 11]]))


def test_split_gradcheck() -> None:
    maps = torch.randn(2, 2, 5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda maps: split_patches(maps, 3), (maps,))


def test_losses_by_hand() -> None:
    x = patches()
    easy, hard = logits_by_hand(x, True), logits_by_hand(x, False)
    bce = sum(map(minus_log_sigmoid, easy)) / len(easy) + sum(minus_log_sigmoid(-h) for h in hard) / len(hard)
    assert discriminator_loss(FirstValue(), x, EASY).item() == pytest.approx(bce, rel=1e-5)
    fooling = sum(map(minus_log_sigmoid, hard)) / len(hard)
    assert adversarial_loss(FirstValue(), x, EASY).item() == pytest.approx(fooling, rel=1e-5)


def test_an_undecided_discriminator() -> None:
    x = torch.zeros(BATCH, 1, CLASSES, 3, 3)
    easy = torch.tensor([[True], [False], [False]])
    assert discriminator_loss(FirstValue(), x, easy).item() == pytest.approx(2 * math.log(2))
    assert adversarial_loss(FirstValue(), x, easy).item() == pytest.approx(math.log(2))


def test_far_logits_stay_finite() -> None:
    x = torch.full((BATCH, GRID**2, CLASSES, 3, 3), -1e4, requires_grad=True)
    loss = adversarial_loss(FirstValue(), x, EASY)
    loss.backward()
    assert loss.item() == pytest.approx(1e4, rel=1e-3)
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_the_student_gets_minus_sigmoid_on_hard_patches_and_nothing_on_easy_ones() -> None:
    x = patches(requires_grad=True)
    (1.7 * adversarial_loss(FirstValue(), x, EASY)).backward()
    assert x.grad is not None
    logits = x.detach()[:, :, 0, 0, 0].double() + torch.arange(GRID**2) / 100
    expected = torch.where(EASY, 0.0, -1.7 * torch.sigmoid(-logits) / (~EASY).sum())
    torch.testing.assert_close(x.grad[:, :, 0, 0, 0].double(), expected, rtol=1e-5, atol=1e-7)


def test_easy_patches_get_no_gradient_from_the_real_discriminator() -> None:
    x, model = patches(requires_grad=True), PatchDiscriminator(CLASSES, GRID**2)
    adversarial_loss(model.requires_grad_(False), x, EASY).backward()
    assert x.grad is not None
    reached = x.grad.flatten(2).abs().amax(2) > 0
    assert torch.equal(reached, ~EASY)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_discriminator_learns_and_the_patches_get_nothing() -> None:
    x, model = patches(requires_grad=True), PatchDiscriminator(CLASSES, GRID**2)
    discriminator_loss(model, x, EASY).backward()
    assert x.grad is None
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_discriminator_gradient_against_binary_cross_entropy_in_float64() -> None:
    x, model = patches(), PatchDiscriminator(CLASSES, GRID**2, embedding_dim=16)
    exact = PatchDiscriminator(CLASSES, GRID**2, embedding_dim=16).double()
    exact.load_state_dict(model.state_dict())
    discriminator_loss(model, x, EASY).backward()
    labels = EASY.flatten().double()
    weight = torch.where(EASY.flatten(), 1 / EASY.sum(), 1 / (~EASY).sum()).double()
    logits = exact(x.double().flatten(0, 1), torch.arange(GRID**2).repeat(BATCH))
    F.binary_cross_entropy_with_logits(logits, labels, weight, reduction="sum").backward()
    for (name, parameter), reference in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.double(), reference.grad, rtol=1e-4, atol=1e-6, msg=name)
