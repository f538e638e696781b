"""Figures as the page writes them; a dash where there is none."""

from __future__ import annotations

import math
from typing import Any, Literal

Tone = Literal["good", "bad", "warn", "info", "plain"]
NOTHING, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def number(value: Any) -> float | None:
    """The value as a float, or None for anything that is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def fixed(value: Any, digits: int = 1) -> str:
    """'32.0', or a dash where there is no number."""
    value = number(value)
    return NOTHING if value is None else f"{value:,.{digits}f}"


def signed(value: float | None) -> str:
    """'+18.8', '-3.2' with a true minus sign, '±0.0' where it rounds to nothing."""
    if value is None:
        return NOTHING
    return f"{'+' if value > 0 else MINUS}{abs(value):.1f}" if tone(value) != "plain" else "±0.0"


def tone(gain: float | None) -> Tone:
    """good for a gain, bad for a loss, plain below the one decimal shown."""
    if gain is None or abs(gain) < 0.05:
        return "plain"
    return "good" if gain > 0 else "bad"


def duration(seconds: Any) -> str:
    """'45 s', '2.0 min' or '3.5 h'."""
    seconds = number(seconds)
    if seconds is None:
        return NOTHING
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
