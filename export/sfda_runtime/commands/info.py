"""Print what a model says about itself, without running it."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from sfda_runtime.files import to_json
from sfda_runtime.model import open_model
from sfda_runtime.session import SessionOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sfda-infer info`."""
    parser.add_argument("model", metavar="MODEL", help="bundle folder, or one .onnx file of it")
    parser.add_argument("--json", action="store_true", help="all facts as JSON")


def execute(args: argparse.Namespace) -> int:
    """Run `sfda-infer info`: the model's hash is checked all the same."""
    model = open_model(args.model, "labels" if Path(args.model).is_dir() else None, SessionOptions())
    manifest = model.manifest
    card = dataclasses.asdict(model.card)
    parity = dict(manifest.parity) if manifest and manifest.parity else None
    files = {name: dataclasses.asdict(file) for name, file in manifest.files.items()} if manifest else None
    if args.json:
        print(
            to_json({"model": str(model.path), "sha256": model.sha256, "card": card, "files": files, "parity": parity})
        )
        return 0
    print(f"{'model':16} {model.path}\n{'sha256':16} {model.sha256}")
    for key, value in card.items():
        text = f"{len(value)} colors" if key == "palette" else to_json(value).strip('"')
        print(f"{key:16} {text}")
    for name, file in (manifest.files if manifest else {}).items():
        print(f"{'file':16} {name}  {file.bytes:,} bytes  {file.sha256[:16]}")
    if parity is not None:
        print(f"{'parity':16} {to_json(parity)}")
    return 0
