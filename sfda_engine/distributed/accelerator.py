"""Accelerate: device, precision, accumulation and tracking, for all processes that were launched."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin, GradScalerKwargs

from sfda_engine.distributed.collectives import join, launched
from sfda_engine.errors import UserError

log = logging.getLogger(__name__)


def precision(stated: str | None) -> str:
    """`stated` (run.mixed_precision), or what the launcher says where it is None. UserError for fp16 on a CPU."""
    chosen = stated or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if chosen == "fp16" and not torch.cuda.is_available():
        raise UserError("mixed precision fp16 needs a GPU; use bf16 or no on a CPU (--run.mixed_precision bf16)")
    return chosen


def check_share(batch_size: int, key: str) -> None:
    """UserError where the processes that were launched cannot have equal shares of a batch."""
    if batch_size % launched():
        fitting = -(-batch_size // launched()) * launched()
        raise UserError(
            f"{key} {batch_size} cannot be shared equally by {launched()} processes; it is the global batch, over all "
            f"of them: make it a multiple, as --{key} {fitting}, or launch fewer"
        )


def make_accelerator(
    *,
    mixed_precision: str | None = None,
    gradient_accumulation: int = 1,
    log_with: str = "none",
    folder: Path | None = None,
) -> Accelerator:
    """The accelerator of a run that tracks into `folder` (None = not at all). Raises UserError as `precision` does."""
    join()
    chosen = precision(mixed_precision)
    launchers = os.environ.get("ACCELERATE_MIXED_PRECISION", chosen)
    if chosen != launchers:
        log.warning("run.mixed_precision %s wins over the launcher's %s", chosen, launchers)
    if not dist.is_initialized():
        # a second run in one process (Python API) may want another precision
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    accelerator = Accelerator(
        mixed_precision=chosen,
        # not with the loader: it has ended before the last step's first batch is used
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=gradient_accumulation, sync_with_dataloader=False
        ),
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with=log_with if folder is not None and log_with != "none" else None,
        project_dir=str(folder) if folder is not None else None,
        kwargs_handlers=[GradScalerKwargs(enabled=False)],  # every update scales its own loss
    )
    if not accelerator.is_main_process:
        logging.getLogger("sfda_engine").setLevel(logging.ERROR)  # the main process has said it
    return accelerator


def end_trackers(accelerator: Accelerator) -> None:
    """`Accelerator.end_training` without parting from the other processes: a script may have more to do."""
    for tracker in accelerator.trackers:
        tracker.finish()
