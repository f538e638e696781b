"""Which layer of a network gives the encoder features F, found by watching one frame run through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

SIDES = ((128, 128), (256, 256), (512, 512), (224, 224), (384, 384), (640, 640), (512, 1024))
"""(height, width) of the frames that are tried: some networks refuse small ones, some take one size alone."""


class Trial(NamedTuple):
    """A network run once."""

    output: Any
    """What it returns."""
    shapes: dict[str, tuple[int, ...]]
    """Of the maps (B, C, h, w) that its layers return, by dotted name in the order in which they end."""
    frame: Tensor
    """(1, 3, H, W) noise."""


@torch.no_grad()
def run_once(network: nn.Module) -> Trial:
    """Run a network in eval mode on one frame of noise, and leave it as it was.

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
            noise = torch.randn(1, 3, *side, generator=torch.Generator().manual_seed(0))
            try:
                return Trial(network(noise), dict(shapes), noise)
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
