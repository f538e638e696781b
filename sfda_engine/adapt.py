"""ENTRY `accelerate launch -m sfda_engine.adapt`: adapt a source model to unlabelled target frames."""

from __future__ import annotations

import sys

from sfda_engine.config.loader import parse_command
from sfda_engine.exit_codes import run_entry


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and adapt."""
    config = parse_command(
        sys.argv[1:] if argv is None else argv,
        prog="accelerate launch -m sfda_engine.adapt",
        description="Adapt a source segmentation model to unlabelled target frames, without any source data.",
        default_config="demo",
    )
    # after the command line: neither --help nor a mistyped key waits for torch
    from sfda_engine.distributed.collectives import leave
    from sfda_engine.pipelines.adaptation import adapt

    adapt(config)
    leave()
    return 0


if __name__ == "__main__":
    run_entry(main)
