"""`python -m benchmarks.peers`: one run, or every run that the table lacks.

Each run is a process of its own (its peak memory is then its own) that appends one row to DIR/peers.csv; DIR/peers.md
is made anew from the CSV after each. A sweep that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.common.methods import PEERS
from benchmarks.common.methods.domains import DOMAINS, domain_config, require_source, settings
from benchmarks.common.methods.source_driven import SOURCE_DRIVEN, SourceMethod
from benchmarks.common.methods.target import Method
from benchmarks.peers.measure import measure
from benchmarks.peers.rows import PeerRow, append_row, read_rows
from benchmarks.peers.tables import markdown
from sfda_engine.config.schema import Config
from sfda_engine.errors import UserError
from sfda_engine.exit_codes import run_entry
from sfda_engine.files import write_text

METHODS: dict[str, Method | SourceMethod] = {**PEERS, **SOURCE_DRIVEN}
STEPS = 50
LIMIT = 45.0
"""The slowest row on scenes, adaptsegnet_multi, makes its steps within the limit on one core of an idle machine."""


class Run(NamedTuple):
    """One row to be; equal to its `PeerRow.key`."""

    method: str
    domain: str
    seed: int
    settings: str


def main(argv: list[str] | None = None) -> int:
    """Parse, then run one, run all that are missing, or show the plan."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    configs = {
        domain: domain_config(domain, arguments.camvid_source, arguments.camvid_root)
        for domain in arguments.domain or default_domains(arguments)
    }
    table = arguments.output / "peers.csv"
    planned = plan(arguments, configs)
    for domain in {run.domain for run in planned if run.method in SOURCE_DRIVEN}:
        require_source(configs[domain])
    rows = read_rows(table)
    done = {row.key for row in rows}
    missing = [run for run in planned if run not in done]
    if arguments.plan:
        print_plan(planned, missing, rows, arguments.limit)
        return 0
    alone = len(planned) == 1
    failed = [run for run in missing if not (run_here if alone else run_apart)(run, arguments, configs[run.domain])]
    write_table(table, configs, arguments.steps)
    print(f"{len(missing) - len(failed)} runs made, {len(planned) - len(missing)} were there: {table}")
    if failed:
        names = ", ".join(f"{run.method} on {run.domain} seed {run.seed}" for run in failed)
        print(f"{len(failed)} runs failed ({names}); the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The options. Raises UserError for an unknown method, and where it is not said what to run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--method", action="append", help=f"one of {', '.join(METHODS)}; can be repeated")
    parser.add_argument("--domain", action="append", help=f"one of {', '.join(DOMAINS)}; can be repeated")
    parser.add_argument("--seed", action="append", type=int, help="can be repeated (--all without it: 0, 1, 2)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"updates of the network ({STEPS})")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help=f"seconds that a method may take on an idle machine ({LIMIT:.0f})"
    )
    parser.add_argument("--camvid-source", type=Path, help="source model for camvid:dusk (config camvid_source)")
    parser.add_argument(
        "--camvid-root", type=Path, help="folder that holds dusk/ and day_train/, each with images/ and labels/"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder of peers.csv, peers.md")
    parser.add_argument("--all", action="store_true", help="every missing row of methods x domains x seeds")
    parser.add_argument("--plan", action="store_true", help="show what would run, and how long, and stop")
    arguments = parser.parse_args(argv)
    for method in arguments.method or ():
        if method not in METHODS:
            raise UserError(f"no method is called {method!r}; choose from {', '.join(METHODS)}")
    for domain in arguments.domain or ():
        if domain not in DOMAINS:
            raise UserError(f"no domain is called {domain!r}; choose from {', '.join(DOMAINS)}")
    if arguments.steps < 1 or arguments.limit <= 0 or any(seed < 0 for seed in arguments.seed or ()):
        raise UserError("--steps and --limit must be above 0, --seed 0 or more")
    whole = arguments.all or arguments.plan
    if not whole and not (arguments.method and arguments.domain and arguments.seed):
        raise UserError("name --method, --domain and --seed, or ask for --all (--plan shows what that is)")
    return arguments


def default_domains(arguments: argparse.Namespace) -> tuple[str, ...]:
    """All domains, CamVid's where its files are named."""
    camvid = arguments.camvid_source is not None or arguments.camvid_root is not None
    return tuple(domain for domain in DOMAINS if camvid or not domain.startswith("camvid"))


def plan(arguments: argparse.Namespace, configs: dict[str, Config]) -> list[Run]:
    """Every row asked for, seed by seed, so that a sweep that is stopped has whole seeds."""
    conditions = {domain: settings(config, arguments.steps) for domain, config in configs.items()}
    return [
        Run(method, domain, seed, conditions[domain])
        for seed in arguments.seed or (0, 1, 2)
        for domain in configs
        for method in arguments.method or METHODS
    ]


def run_here(run: Run, arguments: argparse.Namespace, config: Config) -> bool:
    """One run in this process; it leaves its row."""
    method, steps, limit = METHODS[run.method], arguments.steps, arguments.limit
    row = measure(run.method, method, config, run.domain, steps=steps, seed=run.seed, limit=limit)
    append_row(arguments.output / "peers.csv", row)
    print(report(row), flush=True)
    return True


def run_apart(run: Run, arguments: argparse.Namespace, _: Config) -> bool:
    """One run in a process of its own; whether it left its row."""
    command = [sys.executable, "-m", "benchmarks.peers", "--method", run.method, "--domain", run.domain]
    command += ["--seed", str(run.seed), "--steps", str(arguments.steps), "--limit", str(arguments.limit)]
    command += ["--output", str(arguments.output)]
    for option, value in (("--camvid-source", arguments.camvid_source), ("--camvid-root", arguments.camvid_root)):
        command += [option, str(value)] if value is not None else []
    return subprocess.run(command).returncode == 0


def write_table(table: Path, configs: dict[str, Config], steps: int) -> None:
    """The Markdown of the rows that were measured under these settings."""
    conditions = {domain: settings(config, steps) for domain, config in configs.items()}
    rows = [row for row in read_rows(table) if conditions.get(row.domain) == row.settings]
    if rows:
        write_text(table.with_suffix(".md"), markdown(rows, METHODS, DOMAINS))


def report(row: PeerRow) -> str:
    """A row in one line."""
    return (
        f"{row.method:20} {row.domain:14} seed {row.seed}: source {row.miou_source:.1f}, BN warm start "
        f"{row.miou_bn_warm_start:.1f}, final {row.miou_final:.1f}, oracle {row.miou_best:.1f} at {row.best_step}, "
        f"{row.seconds:.1f} s, {row.idle_seconds:.1f} idle" + (f" ({row.note})" if row.note else "")
    )


def print_plan(planned: list[Run], missing: list[Run], rows: list[PeerRow], limit: float) -> None:
    """Runs by method and domain, with seconds from rows measured before under these settings, else the limit."""
    table = Table(title=f"{len(missing)} of {len(planned)} runs are missing; nothing was run")
    for column in ("method", "domain", "seeds", "seconds a run, idle machine"):
        table.add_column(column)
    total = 0.0
    for method, domain in dict.fromkeys((run.method, run.domain) for run in missing):
        own = [run for run in missing if (run.method, run.domain) == (method, domain)]
        known = [row.idle_seconds for row in rows if (row.method, row.settings) == (method, own[0].settings)]
        seconds = sum(known) / len(known) if known else limit
        total += seconds * len(own)
        table.add_row(
            method, domain, ", ".join(str(run.seed) for run in own),
            f"{seconds:.0f} (measured)" if known else f"at most {limit:.0f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    console.print(f"about {total / 60:.0f} min of adaptation at most, and some seconds a run to start and to score")


if __name__ == "__main__":
    run_entry(main)
