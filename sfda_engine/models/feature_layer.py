"""Which layer of a network gives the encoder features F, found by watching one frame run through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

SIDES = (128, 256, 512)
"""Pixels of the square frames that are tried, smallest first: some networks refuse small ones."""


@torch.no_grad()
def run_once(network: nn.Module) -> tuple[Any, dict[str, tuple[int, ...]]]:
    """What a network in eval mode returns for one frame of noise, and the shapes of the maps (B, C, h, w) that its
    layers return, by dotted name in the order in which they end.

    Raises what the network raises on the largest frame where it takes none.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def record(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                shapes.pop(name, None)
                shapes[name] = tuple(output.shape)

        return hook

    before = network.training
    handles = [layer.register_forward_hook(record(name)) for name, layer in network.named_modules() if name]
    try:
        network.eval()
        for side in SIDES:
            shapes.clear()
            noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
            try:
                return network(noise), dict(shapes)
            except Exception:
                if side == SIDES[-1]:
                    raise
    finally:
        network.train(before)
        for handle in handles:
            handle.remove()
    raise AssertionError("unreachable")


def deepest_layer(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """The layer whose map (B, C, h, w), larger than 1x1, has most channels: where an encoder ends before its decoder
    narrows and enlarges it. Of several the last to end, so of a block and its last part the block; None without maps.
    """
    found: str | None = None
    for name, (_, channels, height, width) in shapes.items():
        if height * width > 1 and (found is None or channels >= shapes[found][1]):
            found = name
    return found
