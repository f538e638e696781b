"""A bound on the logits of an attention map that stands for the maximum of every row."""

from __future__ import annotations

SAFE_BOUND = 40.0
"""Largest bound on |logit| by which exp(logit - bound) stays a normal fp32 number."""


def logit_bound(temperature: float, cosine: bool) -> float | None:
    """A number that no |logit| exceeds: cosines are at most 1. None for dot products, which have none."""
    return 1 / temperature if cosine else None


def safe_shift(bound: float | None) -> float | None:
    """The bound, where it may stand for the maximum of every row, else None."""
    return bound if bound is not None and bound <= SAFE_BOUND else None
