"""`sfda COMMAND ...`: the same as `python -m sfda_engine.COMMAND ...`."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from sfda_engine.errors import UserError
from sfda_engine.exit_codes import exit_code

COMMANDS = {
    "inspect": ("sfda_engine.inspect", "tell whether a source model and frames fit, before adapting"),
    "adapt": ("sfda_engine.adapt", "adapt a source model to unlabelled target frames"),
    "train-source": ("sfda_engine.train_source", "train a source model on labelled frames"),
    "certify": ("sfda_engine.certify", "re-check a finished run against its manifest"),
    "evaluate": ("sfda_engine.evaluate", "measure a model on labelled frames"),
    "export": ("sfda_export.to_onnx", "export a run or a weights file as a bundle of ONNX files"),
    "check-data": ("sfda_engine.data.check", "tell what a published data set on disk lacks"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (`sfda_engine.exit_codes`)."""
    return exit_code(_dispatch, argv)


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: sfda COMMAND [options]     (sfda COMMAND --help explains the options)\n")
        print("\n".join(f"  {name:14}{what}" for name, (_, what) in COMMANDS.items()))
        return 0
    name = argv[0].replace("_", "-")
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1, cutoff=0)[0]
        raise UserError(f"unknown command {argv[0]!r}: the nearest is {close!r}; there are {', '.join(COMMANDS)}")
    # Imported late: `sfda --help` need not wait for torch.
    return import_module(COMMANDS[name][0]).main(argv[1:])
