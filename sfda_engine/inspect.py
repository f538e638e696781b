"""ENTRY `sfda inspect WEIGHTS --frames DIR`: does a source model fit the frames that it is to be adapted to?"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout

from rich.console import Console
from torch import nn

from sfda_engine.adapt import make_trainer
from sfda_engine.audit.label_places import check_target_place
from sfda_engine.config.loader import parse_command, require_data
from sfda_engine.config.schema import Config
from sfda_engine.data.datasets import open_target, target_paths
from sfda_engine.data.frame_files import FrameFiles
from sfda_engine.data.frame_sample import SampledFrames
from sfda_engine.data.readers import Images
from sfda_engine.exit_codes import run_entry
from sfda_engine.inspection.examination import FRAMES, examination_device, examine, exposure_of
from sfda_engine.inspection.table import intake_json, print_intake
from sfda_engine.models.norms import require_batch_norm
from sfda_engine.models.weights import WeightsInfo
from sfda_engine.pipelines.build import check_forward, load_segmenter, make_accelerator, precision
from sfda_engine.pipelines.cost import seconds_per_step
from sfda_engine.pipelines.memory import peak_memory_mb
from sfda_engine.training.position import total_steps, warmup_steps

OWN = (
    ("WEIGHTS", "The source model: stands for --model.weights WEIGHTS."),
    ("--frames DIR", "Folder of frames: stands for --target.dataset folder --target.split null --target.root DIR."),
    ("[--json]", "Print all of it as JSON."),
)
DESCRIPTION = f"""Tells, before adapting, from a source model and {FRAMES} frames whether they fit: input convention,
BatchNorm statistics, sizes, damaged frames, distance from the source, time and memory of a run (measured on two
steps). All keys are those of adapt. No label is opened, nothing is written.
Exit code 0: they fit. 2: adapt would refuse them, or a mistake in the command."""


def inspect_source(config: Config, *, as_json: bool = False) -> int:
    """Examine what `config` names and print it; 0 where it fits, 2 where `adapt` would refuse it."""
    precision(config)
    require_data(config, "target")
    check_target_place(config.target, None)
    source, info = load_segmenter(config.model)
    require_batch_norm(source, f"model.arch {info.arch}")
    check_forward(source, config.target.size)
    source.to(examination_device())
    images = target_images(config)
    exposure = exposure_of(info, config.model)
    intake = examine(source, info, images, size=config.target.size, exposure=exposure)
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
    accelerator = make_accelerator(config, None)
    with redirect_stdout(sys.stderr):
        trainer = make_trainer(config, accelerator, source, info, SampledFrames(images, usable), None)
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


def config_options(argv: list[str]) -> list[str]:
    """WEIGHTS and --frames DIR as keys of the configuration; the rest as it is."""
    options: list[str] = []
    if argv and not argv[0].startswith("-"):
        options, argv = ["--model.weights", argv[0]], argv[1:]
    for token in argv:
        if token.split("=")[0] == "--frames":
            options += ["--target.dataset", "folder", "--target.split", "null"]
            token = token.replace("--frames", "--target.root", 1)
        options.append(token)
    return options


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, examine, print."""
    argv = list(sys.argv[1:] if argv is None else argv)
    config = parse_command(
        config_options([token for token in argv if token != "--json"]),
        prog="sfda inspect",
        description=DESCRIPTION,
        default_config="demo",
        own=OWN,
    )
    return inspect_source(config, as_json="--json" in argv)


if __name__ == "__main__":
    run_entry(main)
