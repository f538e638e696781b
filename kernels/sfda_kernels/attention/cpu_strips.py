"""Attention maps in strips: some rows by the columns from the diagonal on; the other half follows by symmetry.

Shapes: B samples, T tokens, D features.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

STRIP = 2**17
"""Elements of a map held in one strip, 512 KiB in fp32: small enough for a core's cache."""

MIN_ROWS = 64
"""Fewest rows of a strip: below, the matrix products starve."""


def gram_strip(tokens: Tensor, top: int, bottom: int) -> Tensor:
    """Logits of rows [top, bottom) by columns from `top` on: (b, T, D) -> (b, bottom - top, T - top)."""
    return tokens[:, top:bottom] @ tokens[:, top:].mT


def groups(batch: int, count: int) -> Iterator[slice]:
    """Groups of samples whose maps together have about `STRIP` elements."""
    samples = max(1, STRIP // count**2)
    for first in range(0, batch, samples):
        yield slice(first, first + samples)


def strips(count: int) -> Iterator[tuple[int, int]]:
    """Groups of rows [top, bottom) of a map that have about `STRIP` elements; all of a map's, if that is smaller."""
    height = max(MIN_ROWS, STRIP // count)
    for top in range(0, count, height):
        yield top, min(top + height, count)
