"""ENTRY `python -m sfda_engine.train_source`: train a source model on labelled frames."""

from __future__ import annotations

import sys

from rich.console import Console

from sfda_engine.config.loader import parse_command
from sfda_engine.exit_codes import run_entry


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and train."""
    config = parse_command(
        sys.argv[1:] if argv is None else argv,
        prog="python -m sfda_engine.train_source",
        description="Train a source segmentation model on labelled frames (cross-entropy, the paper's settings).",
        default_config="demo_source",
    )
    # after the command line: neither --help nor a mistyped key waits for torch
    from sfda_engine.distributed.collectives import leave, speaks
    from sfda_engine.pipelines.source_training import train_source

    folder = train_source(config)
    leave()
    if speaks():
        Console().print(f"source model: {folder / 'source.safetensors'}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    run_entry(main)
