"""Frames that are kept from training, for the verdict: whole stretches of the drives, since neighbours look alike."""

from __future__ import annotations

from dataclasses import dataclass

from sfda_engine.data.frame_sample import spread

SHARE = 0.2
"""Of the frames, kept aside."""
STRETCH_EVERY = 40
"""Frames per stretch kept aside: one at least, STRETCHES at most."""
STRETCHES = 5
LEAST = 20
"""Frames below which none is kept aside: training would miss them more than the verdict gains."""
JUDGED = 12
"""Frames that models are judged on, spread over those kept aside."""


@dataclass(frozen=True)
class Split:
    """Indices of a data set's frames, ascending."""

    training: tuple[int, ...]
    judged: tuple[int, ...]
    """None of them is in training, unless there are fewer than LEAST frames."""


def set_aside(total: int) -> Split:
    """Which of `total` frames, in the order of their names, train and which are judged on.

    Names order frames by drive, and by time within one: a stretch is a drive or more, or the end of a part of one.
    """
    if total < LEAST:
        return Split(tuple(range(total)), tuple(spread(total, JUDGED)))
    stretches = min(STRETCHES, max(1, total // STRETCH_EVERY))
    ends = [total * (part + 1) // stretches for part in range(stretches)]
    length = round(SHARE * total / stretches)
    aside = [index for end in ends for index in range(end - length, end)]
    training = sorted(set(range(total)) - set(aside))
    return Split(tuple(training), tuple(aside[index] for index in spread(len(aside), JUDGED)))
