"""`--plan`: every training and every run, what is missing, and how long it takes on one H100 and on this machine."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.common.machine import device_name
from benchmarks.paper.cost import Rate, h100_rate, own_rate, run_flop, training_flop
from benchmarks.paper.domains import ARCHITECTURES
from benchmarks.paper.jobs import Run, precision_of, run_config, run_folder, run_steps
from benchmarks.paper.options import Options
from benchmarks.paper.run import SCORE
from benchmarks.paper.sources import Training, is_trained, source_config, training_steps
from benchmarks.paper.tables import Job
from sfda_engine.config.schema import Config
from sfda_engine.data.classes import class_set

WIDTH = 130
"""Columns of the table, also where the output is no terminal."""


@dataclass(frozen=True)
class Line:
    """A line of the plan: the seeds of one job, or one training."""

    name: str
    what: str
    done: int
    missing: int
    steps: int
    h100: float
    """Hours of one run; likewise `here`."""
    here: float
    measured: bool
    """Whether `here` is what a run that is done took."""


def print_plan(trainings: Sequence[Training], runs: Sequence[Run], options: Options) -> None:
    """Print it. Nothing is trained, nothing is written."""
    lines = [_training_line(training, options) for training in trainings]
    jobs = dict.fromkeys(run.job for run in runs)
    lines += [_job_line(job, [run for run in runs if run.job == job], options) for job in jobs]
    missing, planned = sum(line.missing for line in lines), sum(line.missing + line.done for line in lines)
    table = Table(title=f"{missing} of {planned} runs are missing; nothing was run")
    for column in ("run", "method", "done", "missing", "steps", "a run, H100", "a run, here"):
        table.add_column(column)
    for line in lines:
        hours = [duration(line.h100), duration(line.here) + (" (measured)" if line.measured else "")]
        table.add_row(line.name, line.what, str(line.done), str(line.missing), str(line.steps), *hours)
    console = Console(width=max(Console().width, WIDTH))
    console.print(table)
    h100 = sum(line.missing * line.h100 for line in lines)
    here = sum(line.missing * line.here for line in lines)
    console.print(
        f"missing: {duration(h100)} on one H100, {duration(here)} here ({device_name()}), one after the other"
    )
    for device, basis in _bases(trainings, runs, options):
        console.print(f"- {device}: {basis}", soft_wrap=True)
    console.print(
        "FLOP of a step: networks by torch.utils.flop_counter, attention by benchmarks.common.floor. Not counted: "
        "loading of frames, AdaptSegNet's discriminators, BN warm start, labelling of frames, evaluation.",
        soft_wrap=True,
    )


def duration(hours: float) -> str:
    """Hours as seconds, minutes or hours, whichever is read at a glance."""
    seconds = 3600 * hours
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.2g} min" if seconds < 99.5 * 60 else f"{hours:.3g} h"


def _training_line(training: Training, options: Options) -> Line:
    config = source_config(training, options)
    source = config.source
    assert source is not None
    arch, steps = ARCHITECTURES[training.network], training_steps(config)
    flop = steps * training_flop(arch, _classes(config), source.size, source.batch_size)
    done = is_trained(training, options)
    h100, here = (_hours(flop, rate) for rate in _rates(training.network, config))
    return Line(f"source model {training.recipe}", "train_source", int(done), int(not done), steps, h100, here, False)


def _job_line(job: Job, runs: Sequence[Run], options: Options) -> Line:
    config = run_config(runs[0], options)
    steps = run_steps(config)
    folders = [run_folder(run, options) for run in runs]
    contents = [json.loads((folder / SCORE).read_text()) for folder in folders if (folder / SCORE).is_file()]
    recipe = source_config(Training(job.task, job.network), options)
    flop = steps * run_flop(job.method, ARCHITECTURES[job.network], _classes(recipe), config)
    h100, here = (_hours(flop, rate) for rate in _rates(job.network, config))
    own = [content["seconds"] / 3600 for content in contents if content["device"] == device_name()]
    here = statistics.fmean(own) if own else here
    what = " ".join([job.method, *(f"{key}={value}" for key, value in job.changes)])
    done = len(contents)
    steps = steps if job.method != "source_only" else 0
    return Line(f"{job.task.name}, {job.network}", what, done, len(runs) - done, steps, h100, here, bool(own))


def _rates(network: str, config: Config) -> tuple[Rate, Rate]:
    dtype, arch = precision_of(config), ARCHITECTURES[network]
    return h100_rate(arch, dtype), own_rate(arch, dtype)


def _bases(trainings: Sequence[Training], runs: Sequence[Run], options: Options) -> list[tuple[str, str]]:
    found = {}
    for run in runs:
        if run.job.network not in found:
            h100, here = _rates(run.job.network, run_config(run, options))
            found[run.job.network] = [
                (f"H100, {run.job.network}", h100.basis),
                (f"here, {run.job.network}", here.basis),
            ]
    return [basis for bases in found.values() for basis in bases]


def _hours(flop: float, rate: Rate) -> float:
    return flop / rate.flop_per_second / 3600


def _classes(recipe: Config) -> int:
    return len(class_set(recipe.model.classes).names) if recipe.model.classes else recipe.model.num_classes or 19
