"""One logit for each patch of any size, conditioned on its position by projection."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfda_engine.models.discriminator import PatchDiscriminator


@settings(max_examples=20, deadline=None)
@given(patches=st.integers(1, 5), height=st.integers(1, 40), width=st.integers(1, 40))
def test_any_patch_size(patches: int, height: int, width: int) -> None:
    model = PatchDiscriminator(3, num_positions=16, embedding_dim=8)
    logits = model(torch.rand(patches, 3, height, width), torch.randint(16, (patches,)))
    assert logits.shape == (patches,)
    assert logits.isfinite().all()


def test_against_plain_layers_in_float64() -> None:
    model = PatchDiscriminator(4, num_positions=9, embedding_dim=16).double()
    patches, positions = torch.rand(5, 4, 12, 10, dtype=torch.float64), torch.tensor([0, 8, 3, 3, 1])
    leaky = nn.LeakyReLU(0.2)
    h = leaky(model.conv3(leaky(model.conv2(leaky(model.conv1(patches)))))).flatten(2).mean(2)
    inner = torch.stack([h[i] @ model.embedding.weight[p] for i, p in enumerate(positions)]) / 4
    expected = h @ model.linear.weight[0] + model.linear.bias + inner
    torch.testing.assert_close(model(patches, positions), expected)


def test_the_position_changes_the_logit() -> None:
    model = PatchDiscriminator(4, num_positions=4)
    patch = torch.rand(1, 4, 8, 8).expand(4, -1, -1, -1)
    logits = model(patch, torch.arange(4))
    assert logits.unique().numel() == 4
    with torch.no_grad():
        model.embedding.weight.zero_()
    assert model(patch, torch.arange(4)).unique().numel() == 1


def test_gradients_reach_patches_and_only_the_positions_seen() -> None:
    model = PatchDiscriminator(4, num_positions=6)
    patches = torch.rand(3, 4, 8, 8, requires_grad=True)
    logits = model(patches, torch.tensor([1, 4, 4]))
    logits.backward(torch.randn(3))
    assert patches.grad is not None
    assert (patches.grad.flatten(1).abs().amax(1) > 0).all()
    assert model.embedding.weight.grad is not None
    seen = model.embedding.weight.grad.abs().amax(1) > 0
    assert seen.tolist() == [False, True, False, False, True, False]


def test_a_position_outside_the_grid_is_refused() -> None:
    with pytest.raises(IndexError):
        PatchDiscriminator(4, num_positions=4)(torch.rand(1, 4, 8, 8), torch.tensor([4]))
