"""`python -m benchmarks.paper`: the paper's tables and figures, whatever of them is missing.

Each source training and each run is a process of its own (its peak memory is then its own). After every run the tables
are made anew from what is there. A sweep that was stopped goes on where it was: source trainings and the engine's own
rows from their newest checkpoint, the methods of others from the start of the run. A run that fails stops no other.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.common.csv_file import write_csv
from benchmarks.paper.charts import draw
from benchmarks.paper.checks import check_data
from benchmarks.paper.domains import DOMAINS, find_domain, find_roots
from benchmarks.paper.figures import draw_qualitative, draw_synthetic
from benchmarks.paper.jobs import Run, run_folder
from benchmarks.paper.options import Options
from benchmarks.paper.outcomes import lines_of, outcomes
from benchmarks.paper.page import markdown
from benchmarks.paper.plan import print_plan
from benchmarks.paper.run import SCORE, perform, train
from benchmarks.paper.sources import Training, is_trained
from benchmarks.paper.tables import FIGURES, TABLES, Exhibit, Job, exhibit
from sfda_engine.errors import UserError
from sfda_engine.exit_codes import run_entry
from sfda_engine.files import write_text

INTERRUPTED = 130
GOES_ON = "the same command of benchmarks.paper goes on where it was"
SMALLEST = 64


def main(argv: list[str] | None = None) -> int:
    """Parse, then show the plan, make one run (a child of the sweep), or all that are missing."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = parse(argv)
    options = make_options(arguments)
    if arguments.run is not None:
        return make_one(arguments.run, options)
    exhibits = asked_for(arguments, options)
    seeds = arguments.seed or [0]
    jobs = dict.fromkeys(cell.job for one in exhibits for cell in one.cells)
    runs = unique([Run(job, seed) for seed in seeds for job in jobs], options)
    trainings = unique_trainings(runs)
    if arguments.plan:
        print_plan(trainings, runs, options)
        return 0
    check_data(trainings, runs, options)
    failed = sweep(argv, trainings, runs, options, lambda: write_tables(exhibits, seeds, options))
    draw_pictures(exhibits, seeds, options)
    if failed:
        print(f"{len(failed)} failed ({', '.join(failed)}); the same command tries them again", file=sys.stderr)
    return 1 if failed else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options. Raises UserError for an unknown table or figure, and for numbers out of range."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    parser.add_argument("--table", action="append", type=int, default=[], help="1 to 6; can be repeated")
    parser.add_argument("--figure", action="append", type=int, default=[], help="6, 7 or 8; can be repeated")
    parser.add_argument("--domain", default="paper", help=f"one of {', '.join(DOMAINS)} (paper)")
    parser.add_argument("--data-root", type=Path, help="folder that holds gta5/, synthia/, cityscapes/ and crosscity/")
    parser.add_argument("--root", action="append", default=[], metavar="NAME=DIR", help="one of them, elsewhere")
    parser.add_argument("--camvid-root", type=Path, help="folder that holds day_train/, day_val/ and dusk/")
    parser.add_argument("--network", action="append", help="only rows of this network; can be repeated")
    parser.add_argument("--seed", action="append", type=int, help="can be repeated (0)")
    parser.add_argument(
        "--source", action="append", default=[], metavar="RECIPE=FILE", help="a source model that is there"
    )
    parser.add_argument(
        "--backbone",
        action="append",
        default=[],
        metavar="NETWORK=FILE",
        help="ImageNet weights of a network that starts fresh (torch's cache); null = random",
    )
    parser.add_argument("--download", action="store_true", help="let torchvision's ImageNet weights be downloaded")
    parser.add_argument("--steps", type=int, help="updates of each adaptation, for a trial (the shipped schedule)")
    parser.add_argument("--epochs", type=int, help="the same in passes over the target frames")
    parser.add_argument("--source-steps", type=int, help="updates of each source training, for a trial")
    parser.add_argument("--size", type=int, nargs=2, metavar=("W", "H"), help="size of all frames, for a trial")
    parser.add_argument("--batch", type=int, help="frames a step, for a trial")
    parser.add_argument("--workers", type=int, help="loader processes of a run")
    parser.add_argument("--output", type=Path, default=Path("runs/paper"), help="folder of it all (runs/paper)")
    parser.add_argument("--plan", action="store_true", help="show what would run, and how long, and stop")
    parser.add_argument("--run", help=argparse.SUPPRESS)  # the sweep's own processes, see words_of
    arguments = parser.parse_args(argv)
    for kind, asked, known in (("table", arguments.table, TABLES), ("figure", arguments.figure, FIGURES)):
        for number in asked:
            if number not in known:
                raise UserError(f"there is no {kind} {number} here; choose from {', '.join(map(str, known))}")
    if not arguments.table and not arguments.figure:
        raise UserError("name what to make: --table 1 to 6, --figure 6, 7 or 8 (--plan shows what that is)")
    counts = (arguments.steps, arguments.epochs, arguments.source_steps, arguments.batch)
    if any(count is not None and count < 1 for count in counts) or any(seed < 0 for seed in arguments.seed or ()):
        raise UserError("--steps, --epochs, --source-steps and --batch must be above 0, --seed 0 or more")
    if arguments.size is not None and min(arguments.size) < SMALLEST:
        raise UserError(
            f"--size {arguments.size[0]} {arguments.size[1]}: each at least {SMALLEST}, since synthetic "
            "images have half of it and SegNet halves them five times"
        )
    if arguments.steps is not None and arguments.epochs is not None:
        raise UserError("--steps and --epochs say the same thing; give one of them")
    return arguments


def make_options(arguments: argparse.Namespace) -> Options:
    """What the user chose. Raises UserError for unknown names and missing files."""
    domain = find_domain(arguments.domain)
    named = {name: Path(path) for name, path in pairs("--root", arguments.root).items()}
    sources = {name: Path(path).expanduser() for name, path in pairs("--source", arguments.source).items()}
    for recipe, path in sources.items():
        if not path.is_file():
            raise UserError(f"--source {recipe}: there is no file {path}")
    return Options(
        domain=domain,
        output=arguments.output.expanduser(),
        roots=find_roots(domain, arguments.data_root, named, arguments.camvid_root),
        sources=sources,
        backbones=pairs("--backbone", arguments.backbone),
        download=arguments.download,
        steps=arguments.steps,
        epochs=arguments.epochs,
        source_steps=arguments.source_steps,
        size=None if arguments.size is None else tuple(arguments.size),
        batch=arguments.batch,
        workers=arguments.workers,
    )


def pairs(option: str, words: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE words as a dictionary. Raises UserError for another form."""
    split = [word.partition("=") for word in words]
    for word, (name, _, value) in zip(words, split, strict=True):
        if not name or not value:
            raise UserError(f"{option} {word}: expected NAME=VALUE")
    return {name: value for name, _, value in split}


def asked_for(arguments: argparse.Namespace, options: Options) -> list[Exhibit]:
    """The tables and figures. Raises UserError for a network that the domain does not have."""
    networks = tuple(arguments.network or options.domain.networks)
    for network in networks:
        if network not in options.domain.networks:
            known = ", ".join(options.domain.networks)
            raise UserError(f"domain {options.domain.name} has no rows for network {network!r}; choose from {known}")
    names = [f"table_{n}" for n in arguments.table] + [f"figure_{n}" for n in arguments.figure]
    return [exhibit(name, options.domain, networks) for name in dict.fromkeys(names)]


def unique(runs: Sequence[Run], options: Options) -> list[Run]:
    """Each run once: tables that ask for the same one share it."""
    return list({run_folder(run, options).name: run for run in reversed(runs)}.values())[::-1]


def unique_trainings(runs: Sequence[Run]) -> list[Training]:
    """The source models that the runs need."""
    return list({t.recipe: t for t in (Training(run.job.task, run.job.network) for run in runs)}.values())


def sweep(
    argv: list[str], trainings: Sequence[Training], runs: Sequence[Run], options: Options, after: Callable[[], None]
) -> list[str]:
    """Make what is missing, `after` each run the tables; the names of those that failed."""
    failed = []
    for training in trainings:
        if not is_trained(training, options):
            print(f"source model {training.recipe}", flush=True)
            if not run_apart([*argv, "--run", words_of(training)]):
                failed.append(training.recipe)
    made = there = 0
    for place, run in enumerate(runs, 1):
        if not is_trained(Training(run.job.task, run.job.network), options):
            failed.append(f"{name_of(run)} (no source model)")
            continue
        if (run_folder(run, options) / SCORE).is_file():
            there += 1
            continue
        print(f"{place} of {len(runs)}: {name_of(run)}", flush=True)
        if run_apart([*argv, "--run", words_of(run)]):
            made += 1
            after()
        else:
            failed.append(name_of(run))
    after()
    print(f"{made} runs made, {there} were there: {options.output}")
    return failed


def name_of(run: Run) -> str:
    """A run in words."""
    changes = "".join(f" {key}={value}" for key, value in run.job.changes)
    return f"{run.job.method}{changes} on {run.job.task.name}, {run.job.network}, seed {run.seed}"


def run_apart(words: list[str]) -> bool:
    """One run in a process of its own; whether it succeeded. Ctrl-C waits for the checkpoint that it writes."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks.paper", *words]) as child:
        try:
            code = child.wait()
        except KeyboardInterrupt:
            child.wait()
            raise KeyboardInterrupt(GOES_ON) from None
    if code == INTERRUPTED:
        raise KeyboardInterrupt(GOES_ON)
    return code == 0


def make_one(words: str, options: Options) -> int:
    """The training or the run that `words_of` wrote, here."""
    told = json.loads(words)
    task = next(task for tasks in options.domain.columns.values() for task in tasks if task.name == told["task"])
    if "method" not in told:
        train(Training(task, told["network"]), options)
    else:
        job = Job(task, told["network"], told["method"], tuple(told["changes"].items()))
        perform(Run(job, told["seed"]), options)
    return 0


def words_of(one: Training | Run) -> str:
    """A training or a run as the word that its own process gets, JSON."""
    if isinstance(one, Training):
        return json.dumps({"task": one.task.name, "network": one.network})
    job = one.job
    told = {"task": job.task.name, "network": job.network, "method": job.method, "changes": dict(job.changes)}
    return json.dumps(told | {"seed": one.seed})


def write_tables(exhibits: Sequence[Exhibit], seeds: Sequence[int], options: Options) -> None:
    """CSV and Markdown of every table and figure that has a run."""
    for one in exhibits:
        if found := outcomes(one, seeds, options):
            stem = options.output / one.name
            write_csv(stem.with_suffix(".csv"), lines_of(one, found))
            write_text(stem.with_suffix(".md"), markdown(one, found, options))


def draw_pictures(exhibits: Sequence[Exhibit], seeds: Sequence[int], options: Options) -> None:
    """PNG of every table and figure that has a run."""
    for one in exhibits:
        picture = (options.output / one.name).with_suffix(".png")
        if not (found := outcomes(one, seeds, options)):
            continue
        if one.name == "figure_6":
            draw_qualitative(picture, one, found, options)
        elif one.name == "figure_7":
            draw_synthetic(picture, one, found, options)
        else:
            draw(picture, one, found)


if __name__ == "__main__":
    run_entry(main)
