"""The engine's own rows: its trainer under the shipped settings (config `demo`), whole or with terms left out.

The settings are those of the shipped run, its generator warm-up shortened or lengthened with the steps. The shipped run
adds self-training on pseudo-labels, which the paper does not have; `sfda_paper_terms` is without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import nn

from benchmarks.peers.target import Target, engine_config
from sfda_engine.adapt import make_trainer
from sfda_engine.config_loader import load_config

TRANSFER_ALONE: dict[str, Any] = {"max_square_weight": 0.0, "gamma": 0.0, "pseudo_label_weight": 0.0}


def transfer_only(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """Eq. 11 and 12 alone, from the BN warm start."""
    yield from run_engine(network, target, **TRANSFER_ALONE)


def transfer_only_fresh(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """Eq. 12 alone into a network that knows nothing, as in the paper's tables 3 and 4; its weights of the terms."""
    yield from run_engine(network, target, student_init="fresh", lr=0.05, alpha=1.0, beta=0.5, **TRANSFER_ALONE)


def sfda_paper_terms(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """Eq. 11, 15 and 16: no pseudo-labels."""
    yield from run_engine(network, target, pseudo_label_weight=0.0)


def sfda_no_ipsm(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """The shipped run without the patch discriminator."""
    yield from run_engine(network, target, gamma=0.0)


def sfda(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """The shipped run."""
    yield from run_engine(network, target)


def run_engine(network: nn.Module, target: Target, **overrides: Any) -> Iterator[nn.Module]:
    """The shipped run with keys of its section `method` set otherwise."""
    shipped = load_config("demo")
    assert shipped.run.steps is not None
    warmup = shipped.method.warmup_steps * target.steps // shipped.run.steps
    method = dataclasses.replace(shipped.method, warmup_steps=warmup, **overrides)
    config = engine_config(target, method)
    trainer = make_trainer(config, target.accelerator, network, target.info, target.images, None)
    for index, (batch,) in trainer.batches("warmup", 0, trainer.warmup_steps):
        trainer.warm_up_on(index, batch)
    for index, (batch,) in trainer.batches("adaptation", 0, trainer.steps):
        trainer.adapt_on(index, batch)
        trainer.schedule.step()
        yield trainer.networks.student
