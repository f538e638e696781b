"""Dual attention: the maps (Eq. 8, 9), what they attend to (Eq. 10) and two distances (Eq. 6, 7).

Features F are (B, C, h, w) of any floating type, C channels at N = h * w positions. Arithmetic and results
are fp32 (float64 for float64 features), also under autocast. A map compares tokens, positions or channels,
by cosine similarity over a temperature; `cosine=False` is the literal equation: raw dot products, the
temperature ignored. Every function raises ValueError for features that are not four-dimensional, floating
and non-empty, for a pair that disagrees in B, C or N, for a temperature that is not positive and finite, and where
`backend.resolve_backend` does. On the CPU, "auto" and "torch" run formulas that hold the maps in strips; "torch" on
another device is the reference.
"""

from __future__ import annotations

import functools
import logging
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from sfda_kernels.attention import cpu_gram_kl, reference
from sfda_kernels.attention.cpu_attended_l1 import attended_l1
from sfda_kernels.attention.cpu_scaled_tokens import scale_tokens
from sfda_kernels.attention.shift import logit_bound
from sfda_kernels.backend import Backend, resolve_backend
from sfda_kernels.precision import full_precision, widen, widen_pair

log = logging.getLogger(__name__)

Divergence = Literal["forward", "reverse", "js"]
Preference = Literal["speed", "memory"]


def attention_kl(
    synthetic: Tensor,
    target: Tensor,
    *,
    temperature: float = 0.1,
    cosine: bool = True,
    divergence: Divergence = "forward",
    prefer: Preference = "speed",
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Divergence of the synthetic from the target attention (Eq. 7): spatial (B,) and channel (B,).

    Each is the mean over the map's rows, in nats: "forward" KL(synthetic || target), "reverse"
    KL(target || synthetic), "js" Jensen-Shannon, at most log 2, which has no kernel and runs the reference on every
    backend. `prefer="memory"` keeps no map of T x T on a GPU, at the price of computing it again in the backward
    pass; elsewhere no path holds one larger than `pieces.MAP_BUDGET`. Raises ValueError for another name.
    """
    _check_name("divergence", divergence, get_args(Divergence))
    _check_name("prefer", prefer, get_args(Preference))
    _check_pair(synthetic, target, temperature)
    kernels = resolve_backend(backend, "attention_kl", synthetic, target) == "triton"
    if kernels and divergence == "js":
        _log_plain("attention_kl", "the Jensen-Shannon divergence has no kernel")

    def distance(p: Tensor, q: Tensor) -> Tensor:
        if divergence == "reverse":
            p, q = q, p
        if divergence == "js" or (p.device.type != "cpu" and not kernels):
            p, q = (reference.scale_tokens(tokens, temperature, cosine) for tokens in widen_pair(p, q))
            return reference.gram_divergence(p, q, "js" if divergence == "js" else "forward")
        if kernels:
            from sfda_kernels.attention import launch_gram_kl  # here, as it imports triton

            return launch_gram_kl.gram_kl(p, q, temperature, cosine, prefer)
        p, q = (scale_tokens(tokens, temperature, cosine) for tokens in widen_pair(p, q))
        return cpu_gram_kl.gram_kl(p, q, logit_bound(temperature, cosine))

    with full_precision(synthetic):
        p, q = synthetic.flatten(2), target.flatten(2)
        return distance(p.mT, q.mT), distance(p, q)


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
    kernels = resolve_backend(backend, "attention_l1", teacher, student) == "triton"

    def distance(t: Tensor, s: Tensor) -> Tensor:
        if kernels:
            from sfda_kernels.attention import launch_attended_l1  # here, as it imports triton

            return launch_attended_l1.attended_l1(t, s, temperature, cosine)
        t, s = widen_pair(t, s)
        if t.device.type == "cpu":
            u, v = (scale_tokens(values, temperature, cosine) for values in (t, s))
            return attended_l1((u, t), (v, s), logit_bound(temperature, cosine))
        u, v = (reference.scale_tokens(values, temperature, cosine) for values in (t, s))
        return (reference.attend(u, t) - reference.attend(v, s)).abs().sum((1, 2))

    with full_precision(teacher):
        t, s = teacher.flatten(2), student.flatten(2)
        return (distance(t.mT, s.mT) + distance(t, s)) / (2 * t[0].numel())


def attend(features: Tensor, *, temperature: float = 0.1, cosine: bool = True, backend: Backend = "auto") -> Tensor:
    """Dual attention A = concat(F S^T, R F) of Eq. 10, (B, 2C, N).

    S and R are the spatial and channel attention; their rows sum to 1, so every element is a convex
    combination of the raw features of one channel (first C rows) or of one position (last C rows).
    For inspection and figures: it has no kernel and runs the reference on every backend.
    """
    _check(features, temperature)
    if resolve_backend(backend, "attend", features) == "triton":
        _log_plain("attend", "it has no kernel")
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


def _log_plain(operator: str, reason: str) -> None:
    if not torch.compiler.is_compiling():  # a log call would break the graph
        _log_plain_once(operator, reason)


@functools.cache
def _log_plain_once(operator: str, reason: str) -> None:
    log.info("%s runs the torch reference on the triton backend too: %s", operator, reason)


def _check_name(argument: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise ValueError(f"{argument} must be one of {', '.join(names)}, not {name!r}")


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
