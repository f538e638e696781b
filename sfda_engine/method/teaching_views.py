"""Which views the teacher looks through: those that the choice ranks highest, the start first, within a cost."""

from __future__ import annotations

from collections.abc import Sequence

from sfda_engine.views.view import View, pixels

VIEWS = 4
COST = 8.0
"""Pixels of all views together, over those of the start: what bounds the time of the teacher."""


def teaching_views(start: View, ranked: Sequence[View]) -> list[View]:
    """The start, then the best of `ranked` (the best first) of its size and larger: VIEWS in all, as far as COST goes.

    Nothing about exposure, size or share is fixed: a network that is best at twice the size and with its own statistics
    teaches from there. Views smaller than the start see less than the student does, and are left out.
    """
    chosen, cost = [start], pixels(start.size)
    for view in ranked:
        suits = view != start and pixels(view.size) >= pixels(start.size)
        if suits and len(chosen) < VIEWS and cost + pixels(view.size) <= COST * pixels(start.size):
            chosen.append(view)
            cost += pixels(view.size)
    return chosen
