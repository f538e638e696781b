"""AdaBN (Li, Wang, Shi, Hou, Liu, "Adaptive Batch Normalization for practical domain adaptation", 2016/2018).

The BN statistics of the source are replaced by those of the target (arXiv:1603.04779); there is no hyper-parameter.
Here it is the engine's own BN warm start: the cumulative average over two passes.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from benchmarks.common.methods.target import Target, warm_start


def adabn(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """One step: statistics of the target frames."""
    warm_start(network, target)
    yield network
