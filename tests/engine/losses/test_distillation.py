"""L_MAE and both L_DAD (Eq. 5 to 7) against Eq. 8 to 10 written out in float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sfda_engine.losses.attention import AttentionSettings
from sfda_engine.losses.distillation import dad_ss_loss, dad_st_loss, mae_loss

COSINE = AttentionSettings(temperature=0.1, cosine=True)
DOT = AttentionSettings(temperature=0.1, cosine=False)
SETTINGS = pytest.mark.parametrize("settings", [COSINE, AttentionSettings(0.5, True), DOT], ids=["0.1", "0.5", "dot"])


def features(*shape: int, seed: int = 0, requires_grad: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (0.8 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_(requires_grad)


def attention(tokens: np.ndarray, settings: AttentionSettings) -> np.ndarray:
    """Softmax over all tokens of the similarities of each token (row): (T, D) -> (T, T)."""
    if settings.cosine:
        tokens = tokens / np.linalg.norm(tokens, axis=1, keepdims=True) / np.sqrt(settings.temperature)
    weights = np.exp(tokens @ tokens.T)
    return weights / weights.sum(1, keepdims=True)


def maps(image: Tensor, settings: AttentionSettings) -> tuple[np.ndarray, np.ndarray]:
    """Spatial (N, N) and channel (C, C) attention of one image's features (C, h, w)."""
    flat = image.detach().flatten(1).numpy()
    return attention(flat.T, settings), attention(flat, settings)


def attended(image: Tensor, settings: AttentionSettings) -> np.ndarray:
    spatial, channel = maps(image, settings)
    flat = image.detach().flatten(1).numpy()
    return np.concatenate([flat @ spatial.T, channel @ flat])


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum(1).mean())


def test_mae_is_the_mean_over_all_elements() -> None:
    source = torch.tensor([[[[1.0, -2.0]], [[0.0, 3.0]]]])
    student = torch.tensor([[[[0.0, 0.0]], [[0.5, 3.0]]]])
    assert mae_loss(source, student).item() == (1 + 2 + 0.5 + 0) / 4
    assert mae_loss(source, source).item() == 0


def test_mae_gradient_is_the_sign_over_the_count() -> None:
    source, student = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(2, 3, 4, 5, requires_grad=True)
    (2.5 * mae_loss(source, student)).backward()
    expected = 2.5 * (student - source).detach().sign() / source.numel()
    torch.testing.assert_close(student.grad, expected)
    torch.testing.assert_close(source.grad, -expected)


def test_mae_of_half_precision_logits_is_taken_in_fp32() -> None:
    source = torch.full((1, 1, 1, 4096), 1.0, dtype=torch.bfloat16)
    student = torch.full((1, 1, 1, 4096), 1.0 + 2**-7, dtype=torch.bfloat16)
    loss = mae_loss(source, student)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(2**-7)


@SETTINGS
def test_dad_ss_against_the_equations(settings: AttentionSettings) -> None:
    source, student = features(3, 4, 2, 3, seed=1), features(3, 4, 2, 3, seed=2)
    expected = np.mean(
        [np.abs(attended(a, settings) - attended(b, settings)).mean() for a, b in zip(source, student, strict=True)]
    )
    assert dad_ss_loss(source, student, settings).item() == pytest.approx(expected)


@SETTINGS
def test_dad_st_against_the_equations(settings: AttentionSettings) -> None:
    synthetic, target = features(3, 4, 2, 3, seed=3), features(3, 4, 5, 8, seed=4)
    expected = []
    for a, b in zip(synthetic, F.adaptive_avg_pool2d(target, (2, 3)), strict=True):
        pairs = zip(maps(a, settings), maps(b, settings), strict=True)
        expected.append(sum(kl(p, q) for p, q in pairs))
    assert dad_st_loss(synthetic, target, settings).item() == pytest.approx(np.mean(expected))


def test_dad_st_is_not_symmetric() -> None:
    synthetic, target = features(2, 4, 3, 3, seed=5), features(2, 4, 3, 3, seed=6)
    assert dad_st_loss(synthetic, target, COSINE) != dad_st_loss(target, synthetic, COSINE)


@SETTINGS
def test_zero_for_equal_features(settings: AttentionSettings) -> None:
    same = features(2, 4, 3, 5)
    assert dad_ss_loss(same, same.clone(), settings).item() == 0
    assert dad_st_loss(same, same.clone(), settings).item() == pytest.approx(0, abs=1e-12)
    blown_up = same.repeat_interleave(2, 2).repeat_interleave(3, 3)  # pools back to `same`
    assert dad_st_loss(same, blown_up, settings).item() == pytest.approx(0, abs=1e-12)


def test_a_larger_target_batch_is_cut() -> None:
    synthetic, target = features(2, 4, 3, 3, seed=7), features(5, 4, 6, 6, seed=8)
    assert dad_st_loss(synthetic, target, COSINE) == dad_st_loss(synthetic, target[:2], COSINE)


def test_gradcheck() -> None:
    source, student = (
        features(2, 3, 2, 3, seed=9, requires_grad=True),
        features(2, 3, 2, 3, seed=10, requires_grad=True),
    )
    target = features(2, 3, 5, 4, seed=11, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: dad_ss_loss(a, b, AttentionSettings(0.5, True)), (source, student))
    assert torch.autograd.gradcheck(lambda a, b: dad_ss_loss(a, b, DOT), (source, student))
    assert torch.autograd.gradcheck(lambda a, b: dad_st_loss(a, b, AttentionSettings(0.5, True)), (source, target))
    assert torch.autograd.gradcheck(lambda a, b: dad_st_loss(a, b, DOT), (source, target))


def test_mismatched_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="batch"):
        dad_st_loss(features(2, 4, 3, 3), features(2, 5, 6, 6), COSINE)
    with pytest.raises(ValueError, match="batch"):
        dad_ss_loss(features(2, 4, 3, 3), features(2, 4, 3, 4), COSINE)
