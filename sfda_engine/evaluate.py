"""ENTRY `python -m sfda_engine.evaluate`: measure a segmentation model on labelled frames."""

from __future__ import annotations

import json
import sys

from rich.console import Console

from sfda_engine.config.loader import parse_command, resolve_weights
from sfda_engine.exit_codes import run_entry


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, evaluate, print the table."""
    config = parse_command(
        sys.argv[1:] if argv is None else argv,
        prog="python -m sfda_engine.evaluate",
        description="Score a segmentation model on labelled frames: IoU per class, mIoU, PA, mPA.",
        default_config="demo",
    )
    # after the command line: neither --help nor a mistyped key waits for torch
    from sfda_engine.distributed.collectives import leave, speaks
    from sfda_engine.evaluation.scores import as_json, print_scores
    from sfda_engine.pipelines.evaluation import evaluate

    result = evaluate(config)
    if speaks():
        print_scores({str(resolve_weights(config.model.weights or "").name): result}, Console())
        print(json.dumps(as_json(result)))
    leave()
    return 0


if __name__ == "__main__":
    run_entry(main)
