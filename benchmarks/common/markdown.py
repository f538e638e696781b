"""Tables in Markdown, and how several seeds become one cell."""

from __future__ import annotations

import statistics
from collections.abc import Container, Iterable, Sequence


def table(head: Sequence[str], body: Iterable[Sequence[str]], right: Container[int] = ()) -> list[str]:
    """Its lines; the columns whose indices are in `right` are set to the right."""
    rule = "".join("---:|" if index in right else "---|" for index in range(len(head)))
    return [line(head), "|" + rule, *map(line, body)]


def line(cells: Iterable[str]) -> str:
    """One line of a table."""
    return "| " + " | ".join(cells) + " |"


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """ "43.21 ± 0.30", with the sample standard deviation from two values on; empty without a value."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {spread(values):.{digits}f}"


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation; 0 of a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
