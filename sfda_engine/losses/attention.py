"""Dual attention, Eq. 8 to 10: the settings that every attention term shares. The operators are `sfda_kernels`'s."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionSettings:
    """How tokens are compared: cosine over `temperature`, or the raw dot product as printed in Eq. 8 and 9."""

    temperature: float
    cosine: bool
