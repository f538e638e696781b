"""The runs by name: methods at their own settings, and the same with settings that users try and that harm."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import nn

from benchmarks.peers import PEERS
from benchmarks.peers.engine import PAPER_TERMS, run_engine
from benchmarks.peers.max_square import max_square_at, plain_loss
from benchmarks.peers.min_entropy import min_entropy_at
from benchmarks.peers.target import Method, Target
from benchmarks.peers.tent import tent_at

SOUND = (
    "sfda", "sfda_paper_terms", "transfer_only", "tent", "min_entropy", "max_square_iw", "shot", "ubna", "cbst",
    "label_denoising",
)  # fmt: skip
NO_TRANSFER: dict[str, Any] = {"alpha": 0.0, "beta": 0.0}
PLAIN_MAX_SQUARE: dict[str, Any] = {"max_square_weight": 1.0}


def _engine(**overrides: Any) -> Method:
    def run(network: nn.Module, target: Target) -> Iterator[nn.Module]:
        yield from run_engine(network, target, **overrides)

    return run


HARSH: dict[str, Method] = {
    "sfda_lr3": _engine(lr=3e-3),
    "sfda_lr30": _engine(lr=3e-2),
    "sfda_frozen_bn": _engine(**PAPER_TERMS | {"target_bn": "running"}),
    "sfda_plain_max_square": _engine(**PAPER_TERMS | PLAIN_MAX_SQUARE | NO_TRANSFER | {"lr": 2.5e-3, "gamma": 0.0}),
    "sfda_strong_ipsm": _engine(**PAPER_TERMS | PLAIN_MAX_SQUARE | {"gamma": 0.3}),
    "tent_lr10": partial(tent_at, lr=1e-2),
    "min_entropy_lr10": partial(min_entropy_at, lr=2.5e-3),
    "max_square_lr10": partial(max_square_at, of_logits=plain_loss, lr=2.5e-3),
}
RUNS: dict[str, Method] = {name: PEERS[name] for name in SOUND} | HARSH
