"""`python -m benchmarks.self_adapting --data FOLDER --source FILE --adapted FILE`: scores, then latency."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.common.machine import device_slug
from benchmarks.common.row import write_table
from benchmarks.self_adapting.latency import time_graphs
from benchmarks.self_adapting.score import Score, score_models, score_settings
from benchmarks.self_adapting.streams import read_stream, scene_streams
from benchmarks.self_adapting.tables import write_scores
from sfda_engine.config.schema import EvaluateConfig
from sfda_engine.data.datasets import check_label_folder
from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.exit_codes import run_entry
from sfda_engine.models.weights import build_from_weights, save_weights
from sfda_export.options import Options
from sfda_export.to_onnx import to_onnx
from sfda_runtime import Segmenter

DEMO = "package:demo_source"
SETTINGS = (
    (0.0, 0.01), (0.0, 0.02), (0.0, 0.05), (0.0, 0.1), (0.0, 0.2), (0.1, 0.05), (0.1, 0.1), (0.2, 0.05), (0.2, 0.1),
    (0.3, 0.0), (0.3, 0.02), (0.3, 0.05), (0.3, 0.1), (0.5, 0.05), (0.5, 0.1), (1.0, 0.0),
)  # fmt: skip
"""(normalize, update) that are tried on the scenes."""


def export_bundle(weights: str, folder: Path, frames: str) -> Path:
    """Export with the self-adapting graph; frames: what the parity gate compares on. Raises ParityError."""
    to_onnx(Options(run=weights, output=folder, frames=frames, self_adapting=True), Console(stderr=True))
    return folder


def with_gamma(weights: Path, folder: Path) -> Path:
    """A copy of a weights file that says exposure gamma: what training would have corrected, the graph does."""
    model, info = build_from_weights(weights)
    path = folder / "source_gamma.safetensors"
    save_weights(path, model, dataclasses.replace(info, exposure="gamma"))
    return path


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.self_adapting",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and labels/, in stream order")
    parser.add_argument("--source", type=Path, required=True, help="weights of the source model")
    parser.add_argument("--adapted", type=Path, required=True, help="weights of the adapted model")
    parser.add_argument(
        "--demo-adapted", type=Path, help="weights of an adapted demo model: to drive over the scenes too"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder for CSV and Markdown")
    parser.add_argument("--quick", action="store_true", help="few frames, few settings: shows that it runs")
    return parser.parse_args(argv)


def check_files(arguments: argparse.Namespace) -> None:
    """UserError where something that is named is not there; what it holds shows later."""
    if not arguments.data.is_dir():
        raise UserError(f"--data: there is no folder {arguments.data}; name one with images/ and labels/")
    for name in ("source", "adapted", "demo_adapted"):
        path: Path | None = getattr(arguments, name)
        if path is not None and not path.is_file():
            option = name.replace("_", "-")
            raise UserError(f"--{option}: there is no file {path}; name the weights of a model")
    check_label_folder(data_section(arguments), ())


def data_section(arguments: argparse.Namespace) -> EvaluateConfig:
    """The frames of --data, a few of them where it is quick."""
    return EvaluateConfig(dataset="folder", root=str(arguments.data), frames=4 if arguments.quick else None)


def main(argv: list[str] | None = None) -> list[Score]:
    arguments = parse(argv)
    check_files(arguments)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        demo = export_bundle(DEMO, work / "demo", "scenes:night")
        weights = {
            "source": arguments.source,
            "source, exposure gamma": with_gamma(arguments.source, work),
            "adapted": arguments.adapted,
        }
        bundles = {
            name: export_bundle(str(path), work / f"bundle{i}", str(arguments.data))
            for i, (name, path) in enumerate(weights.items())
        }
        adapted_demo = {}
        if arguments.demo_adapted is not None:
            bundle = export_bundle(str(arguments.demo_adapted), work / "demo_adapted", "scenes:night")
            adapted_demo["demo, adapted"] = bundle
        card = Segmenter.load(bundles["source"]).card
        frames = read_stream(data_section(arguments), card.classes, ImageSize(*card.size))
        streams = scene_streams(4 if arguments.quick else None, ImageSize(*Segmenter.load(demo).card.size))
        scores = []
        for one in itertools.chain(
            score_settings(demo, streams, SETTINGS[:1] if arguments.quick else SETTINGS),
            score_models(bundles, arguments.data.name, frames),
            *(score_models(adapted_demo, name, stream) for name, stream in streams.items()),
        ):
            print(f"{one.model:24} {one.stream:10} {one.normalize} {one.update} {one.miou:6.2f}", flush=True)
            scores.append(one)
        sizes = [card.size] if arguments.quick else [card.size, (512, 256)]
        rows = time_graphs(bundles["source"], sizes, 0.0 if arguments.quick else 10.0)
    stem = arguments.output / f"self_adapting_{device_slug()}"
    write_scores(arguments.output / "self_adapting_scores", scores)
    remark = "One frame of noise through each graph of one bundle in onnxruntime, in turns; `adaptive` moves its state."
    write_table(stem, rows, "Latency of a self-adapting model", remark)
    print(f"written: {stem}.csv, .md and self_adapting_scores.csv, .md")
    return scores


def command(argv: list[str]) -> int:
    """`main`, for the shell."""
    main(argv)
    return 0


if __name__ == "__main__":
    run_entry(command)
