"""`sfda-infer` (`python -m sfda_runtime.infer`): run, measure, strain and check an exported model."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from sfda_runtime.commands import bench, info, run, soak, verify
from sfda_runtime.errors import RuntimeFault

COMMANDS = {"run": run, "bench": bench, "soak": soak, "verify": verify, "info": info}

EXIT_CODES = """exit codes:
  0    done
  1    soak: an assertion failed
  2    usage: an option, a path, a missing optional package, an output that cannot be written
  3    integrity: the model is damaged, is not the one that was exported, or gives labels that are no classes
  4    provider: onnxruntime does not run on the provider that was asked for
  5    run: more bad input frames than --max-bad-share
  6    run: more frames late than --max-late-share
  130  interrupted; frames.jsonl is complete up to the last frame
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line: one subcommand a file of sfda_runtime.commands."""
    parser = argparse.ArgumentParser(
        prog="sfda-infer",
        description="Runs models exported by sfda_export: numpy and onnxruntime, no PyTorch.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, command in COMMANDS.items():
        summary = (command.__doc__ or "").splitlines()[0]
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(execute=command.execute)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code of the table in --help."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    args = build_parser().parse_args(argv)
    try:
        return int(args.execute(args))
    except RuntimeFault as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
