"""Source only: the source network as it is."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from benchmarks.common.methods.target import Target


def source_only(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """No step at all. The frames are preprocessed as for every method here, exposure included."""
    yield network
