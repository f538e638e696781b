"""The table that chooses kernels: every shape the paper's models produce, and the exceptions."""

from __future__ import annotations

import pytest
import torch

from sfda_kernels.attention.launch_table import MAP_LIMIT, choose_path, choose_tile, is_aligned

NARROW = {torch.bfloat16}


def path(count: int, depth: int, batch: int = 4, **changes: object) -> str:
    """Path of aligned bf16 tokens (batch, count, depth) on an H100."""
    arguments: dict[str, object] = {
        "shape": torch.Size((batch, count, depth)),
        "dtypes": NARROW,
        "aligned": True,
        "known": True,
        "major": 9,
    }
    return choose_path(**(arguments | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("channels", "positions", "spatial", "channel"),
    [
        (2048, 512, "hybrid", "tiles"),  # DeepLabV3 at stride 8 on 256x128
        (2048, 128, "hybrid", "tiles"),  # at stride 16
        (512, 32, "tiles", "tiles"),  # SegNet
        (96, 512, "tiles", "tiles"),  # StreetNet
        (2048, 2048, "hybrid", "hybrid"),
    ],
)
def test_the_shapes_of_the_models(channels: int, positions: int, spatial: str, channel: str) -> None:
    assert path(positions, channels) == spatial
    assert path(channels, positions) == channel


def test_exceptions() -> None:
    assert path(512, 128) == "tiles"
    assert path(512, 128, known=False) == "hybrid"
    assert path(512, 128, dtypes={torch.float32}) == "hybrid"
    assert path(512, 128, dtypes={torch.float32, torch.bfloat16}) == "hybrid"
    assert path(512, 128, aligned=False) == "hybrid"
    assert path(512, 128, major=7) == "tiles"


def test_maps_beyond_the_limit_go_in_blocks() -> None:
    count = 2048
    batch = MAP_LIMIT // (2 * count**2)
    assert path(count, 2048, batch) == "hybrid"
    assert path(count, 2048, batch + 1) == "blocks"
    assert path(count, 128, batch + 1) == "tiles"


def test_large_tiles_only_where_they_fill_the_device() -> None:
    assert choose_tile(512, 9).size == 64
    assert choose_tile(2048, 9).size == 128
    assert choose_tile(2048, 9).split


def test_alignment() -> None:
    x = torch.zeros(2, 64, 48, dtype=torch.bfloat16)
    assert is_aligned(x)
    assert is_aligned(x.mT)
    assert is_aligned(x[:, :32, 16:])
    assert not is_aligned(x[:, :40])
    assert not is_aligned(x[:, :, :40])
    assert not is_aligned(x[:, ::2, ::3])
    assert not is_aligned(torch.zeros(2, 64, 56)[:, :, :48])
