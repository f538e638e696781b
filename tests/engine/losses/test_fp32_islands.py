"""Inside autocast every term is computed in fp32 of the bf16 that the networks give: each against float64 by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, cross_entropy, interpolate

import sfda_kernels
from sfda_engine.losses.attention import AttentionSettings
from sfda_engine.losses.bn_statistics import bns_loss, record_statistics
from sfda_engine.losses.distillation import dad_ss_loss, dad_st_loss, mae_loss
from sfda_engine.losses.pseudo_label import SMOOTHING, pseudo_label_loss
from sfda_engine.method.ranking import rank_target
from sfda_engine.models.norms import GlobalBatchNorm, batch_moments
from sfda_kernels.attention.reference import scale_tokens

SIZE, GRID, CLASSES = (16, 20), 2, 4
SETTINGS = AttentionSettings(temperature=0.1, cosine=True)
LABELS = torch.randint(0, CLASSES, (2, *SIZE), generator=torch.Generator().manual_seed(9))


def drawn(seed: int, *shape: int) -> Tensor:
    """bf16 with a mean that bf16 sums would not survive."""
    return (8 + 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).bfloat16()


def bns_of(images: Tensor) -> Tensor:
    layer = nn.BatchNorm2d(3).eval()
    with record_statistics(layer) as recorded:
        layer(images)
    return bns_loss(recorded)


def moments(images: Tensor) -> Tensor:
    return torch.stack([images.mean((0, 2, 3)), images.var((0, 2, 3), correction=0)])


def bns(images: Tensor) -> Tensor:
    mean, variance = moments(images)
    return mean.norm() + (variance - 1).norm()


def maps(features: Tensor) -> list[Tensor]:
    """Logits of the spatial (N x N) and of the channel map (C x C), Eq. 8 and 9."""
    f = features.flatten(2)
    tokens = (scale_tokens(one, SETTINGS.temperature, True) for one in (f.transpose(1, 2), f))
    return [one @ one.transpose(1, 2) for one in tokens]


def kl(source: Tensor, target: Tensor) -> Tensor:
    rows = [(a.log_softmax(2), b.log_softmax(2)) for a, b in zip(maps(source), maps(target), strict=True)]
    return torch.stack([(a.exp() * (a - b)).sum(2).mean() for a, b in rows]).sum()


def attended(features: Tensor) -> Tensor:
    spatial, channel = (one.softmax(2) for one in maps(features))
    f = features.flatten(2)
    return torch.cat([f @ spatial.transpose(1, 2), channel @ f], 1)


def pixels(logits: Tensor) -> Tensor:
    return interpolate(logits, SIZE, mode="bilinear").softmax(1)


def entropy(logits: Tensor) -> Tensor:
    values = torch.special.entr(pixels(logits)).sum(1)
    cells = [cell for row in values.tensor_split(GRID, 1) for cell in row.tensor_split(GRID, 2)]
    return torch.stack([cell.mean((1, 2)) for cell in cells], 1)


def pseudo_label(logits: Tensor) -> Tensor:
    logits = interpolate(logits, SIZE, mode="bilinear")
    wanted, predicted = (x.flatten().bincount(minlength=CLASSES) for x in (LABELS, logits.argmax(1)))
    return cross_entropy(logits, LABELS, ((wanted + SMOOTHING) / (predicted + SMOOTHING)).to(logits))


IMAGES, FEATURES, OTHERS = drawn(0, 2, 3, 16, 20), drawn(1, 2, 6, 4, 5), drawn(2, 2, 6, 4, 5)
LOGITS = drawn(3, 2, CLASSES, 4, 5)
ISLANDS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "moments": (lambda x: torch.stack(batch_moments(x)), moments, (IMAGES,)),
    "bns": (bns_of, bns, (IMAGES,)),
    "mae": (mae_loss, lambda a, b: (a - b).abs().mean(), (FEATURES, OTHERS)),
    "dad_ss": (
        lambda a, b: dad_ss_loss(a, b, SETTINGS),
        lambda a, b: (attended(a) - attended(b)).abs().mean(),
        (FEATURES, OTHERS),
    ),
    "dad_st": (lambda a, b: dad_st_loss(a, b, SETTINGS), kl, (FEATURES, OTHERS)),
    "entropy": (lambda x: sfda_kernels.patch_entropy(x, GRID, SIZE).entropy, entropy, (LOGITS,)),
    "max_square": (
        lambda x: rank_target(x, grid=GRID, size=SIZE).max_square,
        lambda x: pixels(x).square().sum(1).mean() / -2,
        (LOGITS,),
    ),
    "pseudo_label": (lambda x: pseudo_label_loss(x, LABELS), pseudo_label, (LOGITS,)),
}


@pytest.mark.parametrize("name", ISLANDS)
def test_term_is_fp32_and_exact_for_its_bf16_inputs(name: str) -> None:
    term, by_hand, inputs = ISLANDS[name]
    ours = [x.clone().requires_grad_() for x in inputs]
    exact = [x.double().requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16):
        result = term(*ours)
    expected = by_hand(*exact)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(result.shape, generator=torch.Generator().manual_seed(4))
    gradients = torch.autograd.grad(result, ours, upstream)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected, exact, upstream.double()), strict=True):
        assert gradient.dtype == torch.bfloat16
        # rounded to bf16 at the end, where two branches meet each on its own
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-2, atol=2**-8 * float(wanted.abs().max()))


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, GlobalBatchNorm])
def test_statistics_of_the_student_are_fp32(kind: type[nn.BatchNorm2d]) -> None:
    """Both kinds keep fp32 statistics of a bf16 batch and give bf16 on; the biased variance normalizes."""
    layer = kind(3, momentum=0.02)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(IMAGES)
    exact = IMAGES.double()
    mean, variance = exact.mean((0, 2, 3)), exact.var((0, 2, 3))
    assert layer.running_mean.dtype == layer.running_var.dtype == torch.float32
    torch.testing.assert_close(layer.running_mean.double(), 0.02 * mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.running_var.double(), 0.98 + 0.02 * variance, rtol=1e-5, atol=0)
    assert output.dtype == torch.bfloat16
    normalized = batch_norm(exact, None, None, training=True)
    torch.testing.assert_close(output.double(), normalized, rtol=2**-8, atol=1e-3)
