"""ENTRY `sfda inspect WEIGHTS --frames DIR`: does a source model fit the frames that it is to be adapted to?"""

from __future__ import annotations

import sys

from sfda_engine.config.loader import parse_command
from sfda_engine.exit_codes import run_entry

OWN = (
    ("WEIGHTS", "The source model: stands for --model.weights WEIGHTS."),
    ("--frames DIR", "Folder of frames: stands for --target.dataset folder --target.split null --target.root DIR."),
    ("[--json]", "Print all of it as JSON."),
)
DESCRIPTION = """Tells, before adapting, from a source model and a sample of frames whether they fit: input convention,
BatchNorm statistics, sizes, damaged frames, distance from the source, time and memory of a run (measured on two
steps). All keys are those of adapt. No label is opened, nothing is written.
Exit code 0: they fit. 2: adapt would refuse them, or a mistake in the command."""


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
    # after the command line: neither --help nor a mistyped key waits for torch
    from sfda_engine.pipelines.inspection import inspect_source

    return inspect_source(config, as_json="--json" in argv)


if __name__ == "__main__":
    run_entry(main)
