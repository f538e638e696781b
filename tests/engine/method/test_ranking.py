"""Easy and hard halves (Eq. 13, 14) against sorting by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfda_engine.method.ranking import rank_target

GRIDS = [1, 3, 4, 5]


def easy_by_hand(logits: Tensor, grid: int, size: tuple[int, int]) -> Tensor:
    """Sort (entropy, index) at each position and take the first floor(B/2)."""
    pixels = F.interpolate(logits.double(), size, mode="bilinear", align_corners=False).softmax(1)
    entropy = torch.special.entr(pixels).sum(1)
    cells = [cell for row in entropy.tensor_split(grid, 1) for cell in row.tensor_split(grid, 2)]
    easy = torch.zeros(len(logits), grid * grid, dtype=torch.bool)
    for position, cell in enumerate(cells):
        order = sorted((cell[b].mean().item(), b) for b in range(len(logits)))
        for _, b in order[: len(logits) // 2]:
            easy[b, position] = True
    return easy


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 7),
    st.sampled_from(GRIDS),
    st.tuples(st.integers(5, 17), st.integers(5, 17)),
    st.integers(0, 999),
)
def test_against_sorting(batch: int, grid: int, size: tuple[int, int], seed: int) -> None:
    logits = 2 * torch.randn(batch, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    ranked = rank_target(logits, grid=grid, size=size)
    assert ranked.easy.dtype == torch.bool
    assert torch.equal(ranked.easy, easy_by_hand(logits, grid, size))
    assert (ranked.easy.sum(0) == batch // 2).all()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("batch", [2, 5, 8])
def test_ties_go_to_the_images_that_come_first(batch: int, grid: int) -> None:
    image = torch.randn(1, 3, 4, 4)
    easy = rank_target(image.expand(batch, -1, -1, -1), grid=grid, size=(16, 16)).easy
    assert torch.equal(easy, (torch.arange(batch) < batch // 2)[:, None].expand(-1, grid * grid))


@pytest.mark.parametrize("grid", GRIDS)
def test_ties_behind_a_certain_image(grid: int) -> None:
    """Image 3 is certain; of the equal others, the first fills the second place."""
    logits = torch.zeros(5, 3, 4, 4)
    logits[3, 0] = 20
    easy = rank_target(logits, grid=grid, size=(16, 16)).easy
    assert torch.equal(easy, torch.tensor([True, False, False, True, False])[:, None].expand(-1, grid * grid))


def test_each_position_is_ranked_on_its_own() -> None:
    """Image 0 is certain on the left, image 1 on the right."""
    logits = torch.zeros(2, 2, 8, 8)
    logits[0, 0, :, :4] = 20
    logits[1, 0, :, 4:] = 20
    easy = rank_target(logits, grid=2, size=(8, 8)).easy
    assert easy.tolist() == [[True, False, True, False], [False, True, False, True]]


def test_max_square_is_the_scaled_mean_over_pixels_and_carries_the_gradient() -> None:
    logits = torch.randn(3, 4, 5, 6, requires_grad=True)
    exact = logits.detach().double().requires_grad_()
    ranked = rank_target(logits, grid=3, size=(11, 13))
    pixels = F.interpolate(exact, (11, 13), mode="bilinear", align_corners=False).softmax(1)
    expected = -pixels.square().sum(1).mean() / 2
    torch.testing.assert_close(ranked.max_square.double(), expected, rtol=1e-5, atol=1e-6)
    (2.3 * ranked.max_square).backward()
    (2.3 * expected).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=1e-4, atol=1e-7)
