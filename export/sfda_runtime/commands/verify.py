"""Check a bundle: the hash of every file, the descriptions, and the golden frames' labels."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from sfda_runtime.card import Card
from sfda_runtime.commands import options
from sfda_runtime.errors import IntegrityError
from sfda_runtime.files import to_json
from sfda_runtime.manifest import NAME, Golden, Manifest, check_hash, read_checked, read_manifest
from sfda_runtime.model import FILES, Model, open_model, refuse_other_things
from sfda_runtime.pictures import decoding_errors, read_index_png
from sfda_runtime.segmenter import run_network
from sfda_runtime.sources import decode_image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sfda-infer verify`."""
    options.add_model(parser)
    parser.add_argument(
        "--max-differing",
        type=options.share,
        default=0.001,
        metavar="SHARE",
        help="share of a golden frame's pixels that another CPU or provider may label otherwise (default: 0.001)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def execute(args: argparse.Namespace) -> int:
    """Run `sfda-infer verify`. The first fault ends it: IntegrityError, exit 3."""
    path = Path(args.model)
    refuse_other_things(path)
    manifest = read_manifest(path if path.is_dir() else path.parent)
    session = options.session_options(args)
    for name in manifest.files:
        read_checked(manifest, name)
    if args.sha256 is not None:
        check_hash(read_checked(manifest, path.name if path.is_file() else FILES["labels"]), args.sha256, path)
    graphs = [graph for graph, name in FILES.items() if name in manifest.files]
    if path.is_file() and path.name not in manifest.files:
        raise IntegrityError(f"{path.name} is not listed in {manifest.folder / NAME}: it is not part of this export")
    differing: dict[str, list[float]] = {}
    for graph in graphs:
        model = open_model(manifest.folder, graph, session)
        check_card(model, manifest)
        if graph in ("labels", "diagnostics"):
            differing[FILES[graph]] = check_golden(model, manifest, args.max_differing)
    report = {"files": len(manifest.files), "graphs": graphs, "golden_differing": differing, "verdict": "verified"}
    if args.json:
        print(to_json(report))
        return 0
    print(f"{len(manifest.files)} files are those that were exported")
    for name, shares in differing.items():
        print(f"{name}: {len(shares)} golden frames, {100 * max(shares, default=0.0):.3f} % of labels differ at most")
    print("verified")
    return 0


def check_card(model: Model, manifest: Manifest) -> None:
    """IntegrityError where a graph describes another model than the manifest does."""
    own, stated = facts(model.card), facts(manifest.card)
    if differing := sorted(key for key in own if own[key] != stated[key]):
        raise IntegrityError(f"{model.path} and {NAME} do not agree on {', '.join(differing)}; export the bundle again")


def facts(card: Card) -> dict[str, Any]:
    """What all graphs of a bundle have in common, as JSON reads it."""
    common = dataclasses.asdict(dataclasses.replace(card, graph="labels"))
    return dict(json.loads(json.dumps(common)))


def check_golden(model: Model, manifest: Manifest, limit: float) -> list[float]:
    """Share of differing pixels of each golden frame. IntegrityError where one is above the limit."""
    network = run_network(model)
    shares = []
    for golden in manifest.golden:
        frame, expected = read_golden(manifest, golden)
        labels = network(frame[None]).labels
        if labels.shape != expected.shape:
            raise IntegrityError(f"{golden.labels} is {expected.shape}, the model gives {labels.shape}; export again")
        shares.append(float(np.mean(labels != expected)))
        if shares[-1] > limit:
            raise IntegrityError(
                f"{model.path}: {100 * shares[-1]:.3f} % of the labels of {golden.frame} are not the expected ones "
                f"(limit {100 * limit:.3f} %): it does not compute here what it did where it was exported"
            )
    return shares


def read_golden(manifest: Manifest, golden: Golden) -> tuple[np.ndarray, np.ndarray]:
    """A golden frame (H, W, 3) and its labels (H, W), hashes checked. IntegrityError where one is damaged."""
    frame = decode_image(read_checked(manifest, golden.frame), manifest.folder / golden.frame)
    try:
        return frame, read_index_png(read_checked(manifest, golden.labels))
    except decoding_errors() as error:
        raise IntegrityError(f"{manifest.folder / golden.labels} cannot be read ({error}); export again") from error
