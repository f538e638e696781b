"""`--dry-run`: what a run would do, how long and in how much memory, measured on two steps that leave no trace."""

from __future__ import annotations

import resource
import sys
import time

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn

from sfda_engine.config.schema import Config
from sfda_engine.inspection.table import print_intake
from sfda_engine.pipelines.inputs import Opened, accelerator_for, inputs_of
from sfda_engine.pipelines.preparation import prepare
from sfda_engine.pipelines.training import Trainer


def print_plan(config: Config, opened: Opened) -> None:
    """Print the examination and the plan of a run; time and memory come from two real steps on its own data."""
    inputs = inputs_of(config, accelerator_for(config, None), opened.source, opened.info, opened.target, None)
    if inputs.accelerator.is_main_process:
        print_intake(opened.intake, opened.info, Console())
    since = time.perf_counter()
    trainer = Trainer(prepare(inputs))
    preparation = time.perf_counter() - since
    seconds = seconds_per_step(trainer)
    if not inputs.accelerator.is_main_process:
        return
    info = opened.info
    total = trainer.steps + trainer.warmup_steps
    config = trainer.inputs.config
    method, target = config.method, config.target
    assert target.size is not None
    rows = {
        "model": f"{info.arch}, {info.num_classes} classes, {millions(trainer.networks.student):.2f} M parameters",
        "generator / discriminator": f"{millions(trainer.networks.generator):.2f} M / "
        f"{millions(trainer.networks.discriminator):.2f} M parameters",
        "target": f"{len(trainer.target)} frames at {target.size[0]}x{target.size[1]}, batch {target.batch_size}",
        "method": f"preset {method.preset}, alpha {method.alpha}, beta {method.beta}, tau {method.tau}, "
        f"gamma {method.gamma}, K {method.patch_grid}",
        "pseudo-labels": f"weight {method.pseudo_label_weight}" if method.pseudo_label_weight else "none",
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


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory: of the allocator on a GPU, resident size of the process on a CPU; MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
