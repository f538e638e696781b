"""Which kernels compute the Gram KL, and in what tiles: decided by table from architecture and shape, not by search.

The entries follow counted bytes and operations and what compiles ahead of time without spilling
(`tests/kernels/aot`); no time on a GPU has been measured yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Path = Literal["tiles", "hybrid", "blocks"]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Launch of a tile kernel."""

    size: int
    """Tokens a side."""
    depth: int
    """Features a step of the main loop."""
    warps: int
    stages: int
    split: bool
    """Whether the backward epilogue goes in four column strips: in one, the registers do not hold a tile of 128."""


SMALL = Tile(size=64, depth=64, warps=4, stages=4, split=False)
LARGE = Tile(size=128, depth=64, warps=8, stages=3, split=True)
INTERPRETED = Tile(size=32, depth=32, warps=4, stages=1, split=True)

LARGE_FROM = {8: 1024, 9: 1024, 10: 1024}
"""Fewest tokens for `LARGE` by compute capability: below, too few programs fill the device."""

HYBRID_FROM = {8: 1024, 9: 1024, 10: 1024}
"""Fewest features for "hybrid": from there cuBLAS outweighs the symmetric half and the second Gram of the tiles."""

MAP_LIMIT = 2**27
"""Most elements of the two maps that "hybrid" keeps for the backward pass (512 MiB in fp32)."""

BLOCK_LIMIT = 2**22
"""Most elements of one map that "blocks" holds at a time (16 MiB in fp32)."""

ROW_BLOCK, ROW_CHUNK, ROW_WARPS = 4, 256, 4
"""Rows and columns a row kernel handles at a time, and its warps."""

TURN_BLOCK, TURN_CHUNK = 16, 64
"""The same for a kernel that reads a map along its columns too: 16 rows are the least that fill a memory sector."""


def choose_path(shape: torch.Size, dtypes: set[torch.dtype], aligned: bool, known: bool, major: int) -> Path:
    """Path for tokens of `shape` (B, T, D) and a device of compute capability `major`.

    "tiles": maps recomputed in tiles, for fewer features than `HYBRID_FROM`, 16-bit and `aligned`, with a `known`
    bound on the logits. "hybrid": both maps by cuBLAS in fp32 and one fused pass each way. "blocks": the same on some
    rows at a time, again in the backward pass, for maps over `MAP_LIMIT`.
    """
    batch, count, depth = shape
    if known and aligned and torch.float32 not in dtypes and depth < HYBRID_FROM.get(major, 1024):
        return "tiles"
    return "hybrid" if 2 * batch * count**2 <= MAP_LIMIT else "blocks"


def is_aligned(x: Tensor) -> bool:
    """Whether a tile kernel can copy 16-bit tokens (B, T, D) in whole 16-byte pieces; it degrades to scalars, and its
    registers spill, unless one stride is 1 and sizes and other strides are multiples of 16."""
    others = [stride for stride in x.stride() if stride != 1]
    return 1 in x.stride()[1:] and all(value % 16 == 0 for value in (*x.shape[1:], *others))


def choose_tile(count: int, major: int) -> Tile:
    """Tile for maps of `count` tokens a side."""
    return LARGE if count >= LARGE_FROM.get(major, 1024) else SMALL
