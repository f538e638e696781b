"""Dual attention: the maps (Eq. 8, 9), what they attend to (Eq. 10) and two distances (Eq. 6, 7).

Features F are (B, C, h, w) of any floating type, C channels at N = h * w positions. Arithmetic and results
are fp32 (float64 for float64 features), also under autocast. A map compares tokens, positions or channels,
by cosine similarity over a temperature; `cosine=False` is the literal equation: raw dot products, the
temperature ignored. Every function raises ValueError for features that are not four-dimensional, floating
and non-empty, for a pair that disagrees in B, C or N, for a temperature that is not positive and finite, and where
`backend.use_kernels` does. On the CPU, "auto" and "torch" run formulas that hold the maps in strips; "torch" on
another device is the reference.
"""

from __future__ import annotations

import functools
import logging
import math

import torch
from torch import Tensor

from sfda_kernels.attention import reference
from sfda_kernels.attention.attended_l1 import attended_l1
from sfda_kernels.attention.gram_kl import gram_kl
from sfda_kernels.backend import Backend, use_kernels
from sfda_kernels.precision import full_precision, widen

log = logging.getLogger(__name__)


def attention_kl(
    synthetic: Tensor,
    target: Tensor,
    *,
    temperature: float = 0.1,
    cosine: bool = True,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """KL(synthetic || target) of the attention maps (Eq. 7), nats, mean over a map's rows: spatial, channel (B,).

    Off the GPU's kernels no path holds a map larger than `pieces.MAP_BUDGET`.
    """
    _check_pair(synthetic, target, temperature)
    kernels = use_kernels(backend, "attention_kl", synthetic, target)
    with full_precision(synthetic):
        p, q = synthetic.flatten(2), target.flatten(2)
        return gram_kl(p.mT, q.mT, temperature, cosine, kernels), gram_kl(p, q, temperature, cosine, kernels)


def attention_l1(
    teacher: Tensor,
    student: Tensor,
    *,
    temperature: float = 0.1,
    cosine: bool = True,
    backend: Backend = "auto",
) -> Tensor:
    """Mean over the 2C x N elements of |attend(teacher) - attend(student)|, Eq. 6: (B,)."""
    _check_pair(teacher, student, temperature)
    kernels = use_kernels(backend, "attention_l1", teacher, student)
    with full_precision(teacher):
        t, s = teacher.flatten(2), student.flatten(2)
        spatial = attended_l1(t.mT, s.mT, temperature, cosine, kernels)
        channel = attended_l1(t, s, temperature, cosine, kernels)
        return (spatial + channel) / (2 * t[0].numel())


def attend(features: Tensor, *, temperature: float = 0.1, cosine: bool = True, backend: Backend = "auto") -> Tensor:
    """Dual attention A = concat(F S^T, R F) of Eq. 10, (B, 2C, N).

    S and R are the spatial and channel attention; their rows sum to 1, so every element is a convex
    combination of the raw features of one channel (first C rows) or of one position (last C rows).
    For inspection and figures: it has no kernel and runs the reference on every backend.
    """
    _check(features, temperature)
    if use_kernels(backend, "attend", features) and not torch.compiler.is_compiling():
        _log_plain_once("attend")  # compiled, a log call would break the graph
    with full_precision(features):
        channels = _flatten(features)

        def branch(values: Tensor) -> Tensor:
            return reference.attend(reference.scale_tokens(values, temperature, cosine), values)

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
    with full_precision(features):
        tokens = reference.scale_tokens(tokens, temperature, cosine)
        return reference.log_attention(tokens, tokens).exp()


def _flatten(features: Tensor) -> Tensor:
    return widen(features).flatten(2)


@functools.cache
def _log_plain_once(operator: str) -> None:
    log.info("%s runs the torch reference on the triton backend too: it has no kernel", operator)


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
