"""`--dry-run`: what a run would do, how long and in how much memory, measured on two steps that leave no trace."""

from __future__ import annotations

import time

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from sfda_engine.config.schema import Config
from sfda_engine.models.weights import WeightsInfo
from sfda_engine.pipelines.memory import peak_memory_mb
from sfda_engine.training.loop import Trainer


def print_plan(config: Config, trainer: Trainer, info: WeightsInfo, preparation: float) -> None:
    """Print the plan of a run; time and memory come from two real steps on its own data.

    preparation: seconds that BN warm start and pseudo-labels took.
    """
    seconds = seconds_per_step(trainer)
    if not trainer.accelerator.is_main_process:
        return
    total = trainer.steps + trainer.warmup_steps
    method, target = config.method, config.target
    rows = {
        "model": f"{info.arch}, {info.num_classes} classes, {millions(trainer.networks.student):.2f} M parameters",
        "generator / discriminator": f"{millions(trainer.networks.generator):.2f} M / "
        f"{millions(trainer.networks.discriminator):.2f} M parameters",
        "target": f"{len(trainer.target)} frames at {target.size[0]}x{target.size[1]}, batch {target.batch_size}",
        "method": f"preset {method.preset}, alpha {method.alpha}, beta {method.beta}, tau {method.tau}, "
        f"gamma {method.gamma}, K {method.patch_grid}",
        "pseudo-labels": f"weight {method.pseudo_label_weight}, scales {list(method.pseudo_label_scales)}"
        if method.pseudo_label_weight
        else "none",
        "steps": f"{trainer.warmup_steps} generator warm-up + {trainer.steps} adaptation",
        "device": f"{trainer.accelerator.device}, precision {trainer.accelerator.mixed_precision}",
        "evaluation": "none (no labels given)" if config.evaluate is None else "after adaptation",
        "expected time": f"{(preparation + seconds * total) / 60:.1f} min: {preparation:.0f} s of preparation, "
        f"{seconds:.2f} s a step (measured on 2 steps); judging and scoring come on top",
        "expected memory": f"{peak_memory_mb(trainer.accelerator.device):.0f} MiB peak (measured on 2 steps)",
    }
    table = Table(title=f"plan of {escape(config.name)}: nothing was written", show_header=False)
    for name, value in rows.items():
        table.add_row(name, escape(value))
    Console().print(table)


def seconds_per_step(trainer: Trainer) -> float:
    """Seconds of the second of two adaptation steps (the first one pays for start-up)."""
    seconds = 0.0
    for index, batches in trainer.batches("adaptation", 0, 2):
        since = time.perf_counter()
        for batch in batches:
            trainer.adapt_on(index, batch)
        if trainer.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - since
    return seconds


def millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6
