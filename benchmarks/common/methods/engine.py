"""The engine's own rows: its trainer under the shipped settings (config `demo`), whole or with terms left out.

The settings are those of the shipped run, its generator warm-up shortened or lengthened with the steps. The shipped run
adds self-training on pseudo-labels and BN statistics mixed with the source's, which the paper does not have;
`sfda_paper_terms` is without both.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import nn

from benchmarks.common.methods.target import Target, estimate_statistics
from sfda_engine.config.loader import load_config
from sfda_engine.config.schema import Config, MethodConfig, ModelConfig, RunConfig, TargetConfig
from sfda_engine.pipelines.inputs import inputs_of
from sfda_engine.pipelines.preparation import prepare
from sfda_engine.pipelines.training import Trainer

WITHOUT_EXTRAS: dict[str, Any] = {
    "pseudo_label_weight": 0.0,
    "target_bn": "batch",  # frozen statistics collapse without self-training
    "bn_share": 0.0,
    "clip_grad_norm": 1.0,
}
"""Self-training and its BN statistics are some shipped configurations' own; the paper has neither."""
PAPER_TERMS: dict[str, Any] = {"lr": 3e-3, "alpha": 0.3, "beta": 0.15} | WITHOUT_EXTRAS
TRANSFER_ALONE = PAPER_TERMS | {"max_square_weight": 0.0, "gamma": 0.0}


def transfer_only(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """Eq. 11 and 12 alone, from the BN warm start."""
    yield from run_engine(network, target, **TRANSFER_ALONE)


def transfer_only_fresh(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """Eq. 12 alone into a network that knows nothing, as in the paper's tables 3 and 4; its weights of the terms."""
    yield from run_engine(
        network, target, **TRANSFER_ALONE | {"student_init": "fresh", "lr": 0.05, "alpha": 1.0, "beta": 0.5}
    )


def sfda_paper_terms(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """Eq. 11, 15 and 16 from the full BN warm start: no pseudo-labels, no share of the source's statistics."""
    yield from run_engine(network, target, **PAPER_TERMS)


def sfda_statistics(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """The full BN warm start; one step, no descent."""
    estimate_statistics(network, copy.deepcopy(network), target, share=0.0)
    yield network


def sfda_no_ipsm(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """The shipped run without the patch discriminator."""
    yield from run_engine(network, target, gamma=0.0)


def sfda_batch(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """The shipped run on batch statistics, none of the source's."""
    yield from run_engine(network, target, target_bn="batch", bn_share=0.0)


def sfda(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    """The shipped run."""
    yield from run_engine(network, target)


def run_engine(
    network: nn.Module, target: Target, configuration: str = "demo", **overrides: Any
) -> Iterator[nn.Module]:
    """A shipped run with keys of its section `method` set otherwise."""
    shipped = load_config(configuration)
    assert shipped.run.steps is not None
    warmup = shipped.method.warmup_steps * target.steps // shipped.run.steps
    method = dataclasses.replace(shipped.method, warmup_steps=warmup, **overrides)
    config = engine_config(target, method)
    trainer = engine_trainer(config, network, target)
    for index, (batch,) in trainer.batches("generator_warmup", 0, trainer.warmup_steps):
        trainer.warm_up_on(index, batch)
    for index, (batch,) in trainer.batches("adaptation", 0, trainer.steps):
        trainer.adapt_on(index, batch)
        trainer.schedule.step()
        if index + 1 == trainer.steps:
            trainer.finish_statistics(trainer.networks.student)
        yield trainer.networks.student


def engine_trainer(config: Config, network: nn.Module, target: Target) -> Trainer:
    """The engine's trainer of `network`, prepared, before its first step; nothing is written."""
    inputs = inputs_of(config, target.accelerator, network, target.info, target.images, None)
    return Trainer(prepare(inputs))


def engine_config(target: Target, method: MethodConfig) -> Config:
    """The configuration under which the engine itself would run on this target."""
    return Config(
        run=RunConfig(seed=target.seed, steps=target.steps, log_with="none"),
        model=ModelConfig(weights=target.weights, exposure=target.info.exposure),
        target=TargetConfig(size=target.size, batch_size=target.batch_size),
        method=method,
    )
