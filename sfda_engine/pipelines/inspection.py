"""What `sfda inspect` does: examine a source model and frames, and measure what a run would cost."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout

from rich.console import Console
from torch import nn

from sfda_engine.audit.label_places import check_target_place
from sfda_engine.config.loader import require_data
from sfda_engine.config.schema import Config
from sfda_engine.data.datasets import open_target, target_paths
from sfda_engine.data.frame_files import FrameFiles
from sfda_engine.data.frame_sample import SampledFrames
from sfda_engine.data.readers import Images
from sfda_engine.distributed.accelerator import precision
from sfda_engine.inspection.examination import examination_device, examine, exposure_of
from sfda_engine.inspection.table import intake_json, print_intake
from sfda_engine.models.segmenter import check_forward
from sfda_engine.models.weights import WeightsInfo
from sfda_engine.pipelines.cost import peak_memory_mb, seconds_per_step
from sfda_engine.pipelines.inputs import accelerator_for, first_size, inputs_of
from sfda_engine.pipelines.networks import load_segmenter
from sfda_engine.pipelines.objective import total_steps, warmup_steps
from sfda_engine.pipelines.preparation import prepare
from sfda_engine.pipelines.training import Trainer


def inspect_source(config: Config, *, as_json: bool = False) -> int:
    """Examine what `config` names and print it; 0 where it fits, 2 where `adapt` would refuse it."""
    precision(config.run.mixed_precision)
    require_data(config, "target")
    check_target_place(config.target, None)
    source, info = load_segmenter(config.model)
    source.to(examination_device())
    images = target_images(config)
    size = first_size(config, info, images)
    check_forward(source, size)
    exposure = exposure_of(info, config.model.exposure)
    intake = examine(source, info, images, size=size, exposure=exposure)
    cost = None if intake.refused else run_cost(config, source, info, images, intake.frames.usable)
    if as_json:
        print(json.dumps(intake_json(intake) | {"expected": cost}, indent=2, allow_nan=False))
    else:
        print_intake(intake, info, Console(), cost_rows(cost) if cost else None)
    return 2 if intake.refused else 0


def target_images(config: Config) -> Images:
    """The target as it lies on disk: damaged files are for the examination to find."""
    return open_target(config.target) if config.target.dataset == "scenes" else FrameFiles(target_paths(config.target))


def run_cost(
    config: Config, source: nn.Module, info: WeightsInfo, images: Images, usable: tuple[int, ...]
) -> dict[str, float | int | str]:
    """Seconds and peak memory of a run, from two adaptation steps on `usable` frames that leave no trace."""
    accelerator = accelerator_for(config, None)
    with redirect_stdout(sys.stderr):
        inputs = inputs_of(config, accelerator, source, info, SampledFrames(images, usable), None)
        trainer = Trainer(prepare(inputs))
        seconds = seconds_per_step(trainer)
    steps = total_steps(config, len(images)) + warmup_steps(config)
    return {
        "basis": "measured on 2 steps on this machine",
        "device": str(accelerator.device),
        "steps": steps,
        "seconds_per_step": round(seconds, 4),
        "seconds": round(seconds * steps, 1),
        "peak_memory_mb": round(peak_memory_mb(accelerator.device), 1),
    }


def cost_rows(cost: dict[str, float | int | str]) -> dict[str, str]:
    """`run_cost` for the table."""
    return {
        "expected time": f"{float(cost['seconds']) / 60:.1f} min for {cost['steps']} steps of "
        f"{cost['seconds_per_step']:.2g} s on {cost['device']} ({cost['basis']})",
        "expected memory": f"{cost['peak_memory_mb']:.0f} MiB peak ({cost['basis']})",
    }
