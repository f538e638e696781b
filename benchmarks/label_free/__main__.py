"""`python -m benchmarks.label_free`: runs that the table lacks, and what all of them say."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.common.methods.domains import domain_config, settings
from benchmarks.label_free.measure import measure
from benchmarks.label_free.rows import append_rows, read_rows
from benchmarks.label_free.runs import RUNS
from benchmarks.label_free.tables import write_evidence
from sfda_engine.data.scenes.render import DOMAINS
from sfda_engine.errors import UserError
from sfda_engine.exit_codes import run_entry

STEPS = 50


def main(argv: list[str] | None = None) -> int:
    """Parse, make the missing runs, write what they say."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    table = arguments.output / "label_free.csv"
    if not arguments.report:
        make_runs(arguments, table)
    if rows := read_rows(table):
        write_evidence(table, rows)
        print(f"{len(rows)} scored models: {table.with_suffix('.md')}")
    return 0


def make_runs(arguments: argparse.Namespace, table: Path) -> None:
    """Every run that the table lacks, domain by domain; each leaves its rows when it is done."""
    done = {row.key for row in read_rows(table)}
    for seed in arguments.seed:
        for domain in arguments.domain:
            config = domain_config(domain, arguments.camvid_source, arguments.camvid_root)
            conditions = settings(config, arguments.steps)
            for name in arguments.run:
                if (name, domain, seed, conditions) in done:
                    continue
                since = time.process_time()
                rows = measure(name, RUNS[name], config, domain, steps=arguments.steps, seed=seed)
                append_rows(table, rows)
                mious = " ".join(f"{row.miou:.1f}" for row in rows)
                print(f"{name:22} {domain:14} seed {seed}: {mious}, {time.process_time() - since:.0f} s", flush=True)


def parse(argv: list[str]) -> argparse.Namespace:
    """The options. Raises UserError for an unknown run, and for a CamVid domain without its files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_free", description=__doc__)
    scenes = [f"scenes:{split}" for split in DOMAINS]
    parser.add_argument("--run", action="append", help=f"one of {', '.join(RUNS)}; can be repeated (all)")
    parser.add_argument(
        "--domain", action="append", help=f"one of {', '.join(scenes)}, or camvid:FOLDER; can be repeated (scenes)"
    )
    parser.add_argument("--seed", action="append", type=int, help="can be repeated (0)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"updates of the network ({STEPS})")
    parser.add_argument("--camvid-source", type=Path, help="source model of the camvid domains")
    parser.add_argument("--camvid-root", type=Path, help="folder that holds FOLDER/images and FOLDER/labels")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder of label_free.csv")
    parser.add_argument("--report", action="store_true", help="make no run: tables and plots from the CSV")
    arguments = parser.parse_args(argv)
    arguments.run, arguments.domain = arguments.run or list(RUNS), arguments.domain or scenes
    arguments.seed = arguments.seed or [0]
    for name in arguments.run:
        if name not in RUNS:
            raise UserError(f"no run is called {name!r}; choose from {', '.join(RUNS)}")
    for domain in arguments.domain:
        if domain not in scenes and not domain.startswith("camvid:"):
            raise UserError(f"no domain is called {domain!r}; choose from {', '.join(scenes)}, or camvid:FOLDER")
    if arguments.steps < 4 or min(arguments.seed) < 0:
        raise UserError("--steps must be 4 or more (a snapshot is taken at each quarter), --seed 0 or more")
    return arguments


if __name__ == "__main__":
    run_entry(main)
