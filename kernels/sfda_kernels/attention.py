"""Dual attention: the maps (Eq. 8, 9), what they attend to (Eq. 10) and two distances (Eq. 6, 7).

Features F are (B, C, h, w) of any floating type, C channels at N = h * w positions. Arithmetic and results
are fp32 (float64 for float64 features), also under autocast. A map compares tokens, positions or channels,
by cosine similarity over a temperature; `cosine=False` is the literal equation: raw dot products, the
temperature ignored. Every function raises ValueError for features that are not four-dimensional, floating
and non-empty, for a pair that disagrees in B, C or N, and for a temperature that is not positive and finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from sfda_kernels import reference

Divergence = Literal["forward", "reverse", "js"]

_DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "forward": reference.forward_divergence,
    "reverse": reference.reverse_divergence,
    "js": reference.js_divergence,
}


def attention_kl(
    synthetic: Tensor,
    target: Tensor,
    *,
    temperature: float = 0.1,
    cosine: bool = True,
    divergence: Divergence = "forward",
) -> tuple[Tensor, Tensor]:
    """Divergence of the synthetic from the target attention (Eq. 7): spatial (B,) and channel (B,).

    Each is the mean over the map's rows, in nats: "forward" KL(synthetic || target), "reverse"
    KL(target || synthetic), "js" Jensen-Shannon, at most log 2. Raises ValueError for any other divergence.
    """
    if divergence not in _DIVERGENCES:
        raise ValueError(f"divergence must be one of {', '.join(_DIVERGENCES)}, not {divergence!r}")
    _check_pair(synthetic, target, temperature)

    def distance(p: Tensor, q: Tensor) -> Tensor:
        pair = tuple(reference.scale_tokens(tokens, temperature, cosine) for tokens in (p, q))
        return reference.map_rows(_DIVERGENCES[divergence], pair, pair).mean(1)

    with reference.full_precision(synthetic):
        p, q = _flatten(synthetic), _flatten(target)
        return distance(p.mT, q.mT), distance(p, q)


def attention_l1(teacher: Tensor, student: Tensor, *, temperature: float = 0.1, cosine: bool = True) -> Tensor:
    """Mean over the 2C x N elements of |attend(teacher) - attend(student)|, Eq. 6: (B,)."""
    _check_pair(teacher, student, temperature)
    attended = [attend(features, temperature=temperature, cosine=cosine) for features in (teacher, student)]
    return (attended[0] - attended[1]).abs().mean((1, 2))


def attend(features: Tensor, *, temperature: float = 0.1, cosine: bool = True) -> Tensor:
    """Dual attention A = concat(F S^T, R F) of Eq. 10, (B, 2C, N).

    S and R are the spatial and channel attention; their rows sum to 1, so every element is a convex
    combination of the raw features of one channel (first C rows) or of one position (last C rows).
    """
    _check(features, temperature)
    with reference.full_precision(features):
        channels = _flatten(features)

        def branch(values: Tensor) -> Tensor:
            tokens = reference.scale_tokens(values, temperature, cosine)
            return reference.map_rows(reference.attend_rows, (tokens,), (tokens, values))

        return torch.cat([branch(channels.mT).mT, branch(channels)], 1)


def spatial_attention(features: Tensor, *, temperature: float = 0.1, cosine: bool = True) -> Tensor:
    """Attention S of each position (row) over all positions, Eq. 8: (B, N, N), rows sum to 1."""
    _check(features, temperature)
    return _attention(features, _flatten(features).mT, temperature, cosine)


def channel_attention(features: Tensor, *, temperature: float = 0.1, cosine: bool = True) -> Tensor:
    """Attention R of each channel (row) over all channels, Eq. 9: (B, C, C), rows sum to 1."""
    _check(features, temperature)
    return _attention(features, _flatten(features), temperature, cosine)


def _attention(features: Tensor, tokens: Tensor, temperature: float, cosine: bool) -> Tensor:
    with reference.full_precision(features):
        tokens = reference.scale_tokens(tokens, temperature, cosine)
        return reference.log_attention(tokens, tokens).exp()


def _flatten(features: Tensor) -> Tensor:
    return reference.widen(features).flatten(2)


def _check(features: Tensor, temperature: float) -> None:
    if features.ndim != 4 or not features.is_floating_point() or features.numel() == 0:
        raise ValueError(
            "features must be a non-empty floating-point tensor (B, C, h, w), "
            f"not {tuple(features.shape)} of {features.dtype}"
        )
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be positive and finite, not {temperature}")


def _check_pair(first: Tensor, second: Tensor, temperature: float) -> None:
    for features in (first, second):
        _check(features, temperature)
    if first.shape[:2] != second.shape[:2] or first[0, 0].numel() != second[0, 0].numel():
        raise ValueError(
            "both feature maps need the same batch, channels and number of positions, "
            f"not {tuple(first.shape)} and {tuple(second.shape)}"
        )
