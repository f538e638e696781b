"""What the guard costs: process time of the steps between two log lines, with its look and snapshot and without.

python -m benchmarks.guard_overhead --config demo -- [overrides of the configuration]

Segments with and without alternate in one run, so that a busy machine falls on both alike; nothing is written but the
line that is printed. Process time counts all threads of this process and no other's.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

from sfda_engine.config.loader import load_config
from sfda_engine.data.datasets import open_target
from sfda_engine.pipelines.inputs import Inputs, accelerator_for
from sfda_engine.pipelines.networks import load_segmenter
from sfda_engine.pipelines.preparation import prepare
from sfda_engine.pipelines.training import Trainer, make_trainer


def segments(trainer: Trainer, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Process seconds of `rounds` segments of `run.log_every` steps: without the guard, with it, and of its looks."""
    every = trainer.config.run.log_every
    guard = trainer.make_guard()
    plain: list[float] = []
    guarded: list[float] = []
    looks: list[float] = []
    batches = trainer.batches("adaptation", 0, (2 * rounds + 1) * every)
    for index in range(2 * rounds + 1):
        watched = index % 2 == 0
        since = time.process_time()
        for step, (batch,) in itertools.islice(batches, every):
            trainer.adapt_on(step, batch)
        before = time.process_time()
        if watched:
            guard.look(index + 1, terms={})
        now = time.process_time()
        if index == 0:
            continue  # pays for start-up
        (guarded if watched else plain).append(now - since)
        if watched:
            looks.append(now - before)
    return plain, guarded, looks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="demo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("overrides", nargs="*", help="keys of the configuration, after --")
    options = parser.parse_args()
    config = load_config(options.config, options.overrides)
    source, info = load_segmenter(config.model)
    inputs = Inputs(config, accelerator_for(config, None), source, info, open_target(config.target), None)
    trainer = make_trainer(inputs, prepare(inputs))
    plain, guarded, looks = map(statistics.median, segments(trainer, options.rounds))
    every, (width, height) = config.run.log_every, config.target.size
    print(
        f"{info.arch} {width}x{height}, batch {config.target.batch_size}, {every} steps: {plain:.3f} s without, "
        f"{guarded:.3f} s with the guard ({guarded / plain - 1:+.1%}); its look alone {looks:.3f} s "
        f"({looks / plain:.1%}); medians of {options.rounds}, process time on {inputs.accelerator.device}"
    )


if __name__ == "__main__":
    main()
