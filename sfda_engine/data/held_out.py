"""Frames that are kept aside from training, to judge on: stretches of the recording, since neighbors are alike."""

from __future__ import annotations

STRETCHES = 4
SHARE = 0.25
"""Of the frames, at most."""
MOST = 128
FEWEST = 16
"""Frames below which none can be spared."""


def held_out(count: int) -> list[int]:
    """Indices, ascending, of up to MOST of `count` frames in recorded order: the ends of STRETCHES equal parts.

    Empty where there are fewer than FEWEST.
    """
    if count < FEWEST:
        return []
    length = max(1, min(int(SHARE * count), MOST) // STRETCHES)
    ends = [count * (part + 1) // STRETCHES for part in range(STRETCHES)]
    return [index for end in ends for index in range(end - length, end)]
