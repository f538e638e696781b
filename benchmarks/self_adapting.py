"""python -m benchmarks.self_adapting --data FOLDER --source FILE --adapted FILE: does the model follow the light?

Models are exported with --self-adapting, parity gate included, and driven by sfda_runtime over frames in stream order:
first the shipped demo model over procedural scenes at many settings (where the defaults were chosen), then, at the
defaults alone, the given models over the frames of FOLDER (images/ and labels/, sorted by name). Labels are read for
scoring alone. Last the latency of one frame.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from benchmarks.common.measure import Timed, time_in_turns
from benchmarks.common.row import Row, device_slug, stamp, write_csv, write_markdown
from sfda_engine.config.schema import EvaluateConfig
from sfda_engine.data.datasets import check_label_folder, open_evaluate
from sfda_engine.errors import UserError
from sfda_engine.evaluation.scores import scores_of
from sfda_engine.exit_codes import run_entry
from sfda_engine.models.weights import build_from_weights, save_weights
from sfda_export.options import Options
from sfda_export.parity import confusion_of
from sfda_export.to_onnx import to_onnx
from sfda_runtime import Adaptation, AdaptiveSegmenter, Bounds, Segmenter, Status
from sfda_runtime.adaptive import AdaptiveNetwork
from sfda_runtime.card import Graph
from sfda_runtime.model import open_model
from sfda_runtime.segmenter import Network, resize, run_network
from sfda_runtime.session import SessionOptions

DEMO = "package:demo_source"
DOMAINS = ("day", "night", "rain", "fog")
GRAPHS: tuple[Graph, ...] = ("labels", "diagnostics", "adaptive")
SETTINGS = (
    (0.0, 0.01), (0.0, 0.02), (0.0, 0.05), (0.0, 0.1), (0.0, 0.2), (0.1, 0.05), (0.1, 0.1), (0.2, 0.05), (0.2, 0.1),
    (0.3, 0.0), (0.3, 0.02), (0.3, 0.05), (0.3, 0.1), (0.5, 0.05), (0.5, 0.1), (1.0, 0.0),
)  # fmt: skip
"""(normalize, update) that are tried on the scenes."""
Stream = list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""Frames (H, W, 3) and their labels, in order."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One model over one stream; mIoU in percent at the labels' own size, labels of the runtime by nearest."""

    stream: str
    frames: int
    model: str
    normalize: float | None = None
    """None, as `update`: the plain model."""
    update: float | None = None
    miou: float
    miou_second_half: float
    """Of the stream's second half alone: what it comes to, without the way there."""
    rejected: int
    """Frames that were kept out of the state."""


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


def read_stream(config: EvaluateConfig, class_names: tuple[str, ...], size: tuple[int, int]) -> Stream:
    """The labelled frames of a data set; folders by sorted name."""
    images = open_evaluate(config, class_names=class_names, size=size)
    return [(np.asarray(images.image(i)), np.asarray(images.label(i))) for i in range(len(images))]


def drive(segmenter: Segmenter, stream: Stream) -> tuple[list[Tensor], int]:
    """Confusion counts (K, K) of every frame, in order, and the number of rejected frames."""
    counts, rejected = [], 0
    for frame, truth in stream:
        result = segmenter(frame)
        rejected += result.status is Status.STATE_REJECTED
        labels = resize(result.labels, (truth.shape[1], truth.shape[0]), "nearest")
        counts.append(confusion_of(labels, truth, len(segmenter.card.classes)))
    return counts, rejected


def score(bundle: Path, name: str, stream: str, frames: Stream, settings: tuple[float, float] | None) -> Score:
    """Drive one exported model; settings (normalize, update), None for the plain model."""
    if settings is None:
        segmenter = Segmenter.load(bundle, label_size="network")
    else:
        adaptation = Adaptation(normalize=settings[0], update=settings[1])
        segmenter = AdaptiveSegmenter.load(bundle, adaptation=adaptation, label_size="network")
    counts, rejected = drive(segmenter, frames)
    whole, half = (torch.stack(part).sum(0) for part in (counts, counts[len(counts) // 2 :]))
    return Score(
        stream=stream,
        frames=len(frames),
        model=name,
        normalize=settings and settings[0],
        update=settings and settings[1],
        miou=scores_of(whole, segmenter.card.classes).miou,
        miou_second_half=scores_of(half, segmenter.card.classes).miou,
        rejected=rejected,
    )


def scene_streams(count: int | None, size: tuple[int, int]) -> dict[str, Stream]:
    """One stream a domain, and one that changes from each to the next, half as long in each."""
    streams = {
        domain: read_stream(EvaluateConfig(dataset="scenes", split=domain, frames=count), (), size)
        for domain in DOMAINS
    }
    half = len(streams["day"]) // 2
    streams["changing"] = list(itertools.chain.from_iterable(streams[domain][:half] for domain in DOMAINS))
    return streams


def score_settings(
    bundle: Path, streams: dict[str, Stream], settings: Sequence[tuple[float, float]]
) -> Iterator[Score]:
    """The demo model over every stream, plain and at every setting."""
    for choice in (None, *settings):
        for name, frames in streams.items():
            yield score(bundle, "demo_source", name, frames, choice)


def score_models(bundles: dict[str, Path], stream: str, frames: Stream) -> Iterator[Score]:
    """Every model over one stream, plain and self-adapting at the defaults."""
    chosen = Adaptation()
    for name, bundle in bundles.items():
        for settings in (None, (chosen.normalize, chosen.update)):
            yield score(bundle, name, stream, frames, settings)


def time_graphs(bundle: Path, sizes: Iterable[tuple[int, int]], seconds: float) -> list[Row]:
    """One frame through the labels, the diagnostics and the self-adapting graph, in turns; one thread."""
    options = SessionOptions(threads=1)
    models = {name: open_model(bundle, name, options) for name in GRAPHS}
    start = AdaptiveSegmenter.load(bundle).state
    # noise is no street: a frame that is rejected would run twice
    always = Adaptation(bounds=Bounds(var_ratio=np.inf, drift=np.inf), entropy=1.0, one_class=1.0)
    networks: dict[Graph, Network] = {
        name: AdaptiveNetwork(model, start, always) if name == "adaptive" else run_network(model)
        for name, model in models.items()
    }
    rows = []
    for width, height in sizes:
        draw = partial(np.random.default_rng(0).integers, 0, 256, (1, height, width, 3), dtype=np.uint8)
        timed = {str(name): Timed(network, draw) for name, network in networks.items()}
        for name, (p20, p50, p80) in time_in_turns(timed, torch.device("cpu"), seconds=seconds, warmup=3).items():
            row = Row(
                op=models["labels"].card.arch, provider=name, direction="forward", shape=f"1x{width}x{height}",
                dtype="fp32", p20_ms=p20, p50_ms=p50, p80_ms=p80,
            )  # fmt: skip
            rows.append(dataclasses.replace(stamp(row), threads=options.threads))
    return rows


def write_scores(stem: Path, scores: list[Score]) -> None:
    """CSV and Markdown: settings as one row each over the scenes, then the given models."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    with stem.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in dataclasses.fields(Score)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(one) for one in scores)
    tried = [one for one in scores if one.model == "demo_source"]
    chosen = Adaptation()
    lines = [
        "# Self-adapting models",
        "",
        "mIoU in percent at the labels' own size of labels that `sfda_runtime` gave, one frame at a time in stream",
        f"order. Defaults: normalize {chosen.normalize}, update {chosen.update}, chosen on the first table.",
        "",
        "## Settings, demo_source (trained on day) on procedural scenes",
        *settings_table(tried),
        "",
        "`changing` is day, night, rain, fog, half of each stream, from one light to the next without a break.",
        "",
        "## Models at the defaults",
        *models_table([one for one in scores if one not in tried]),
    ]
    stem.with_suffix(".md").write_text("\n".join(lines) + "\n")


def settings_table(scores: list[Score]) -> list[str]:
    """Markdown: a row for each setting, a column for each stream, the mean last."""
    streams = list(dict.fromkeys(one.stream for one in scores))
    lines = [
        "| normalize | update | " + " | ".join(streams) + " | mean | rejected |",
        "|---" * (len(streams) + 4) + "|",
    ]
    for _, group in itertools.groupby(scores, lambda one: (one.normalize, one.update)):
        row = list(group)
        weights = ("plain", "") if row[0].normalize is None else (str(row[0].normalize), str(row[0].update))
        values = [f"{one.miou:.1f}" for one in row]
        mean = sum(one.miou for one in row) / len(row)
        lines.append(
            "| " + " | ".join([*weights, *values, f"{mean:.1f}", str(sum(one.rejected for one in row))]) + " |"
        )
    return lines


def models_table(scores: list[Score]) -> list[str]:
    """Markdown: a row for each model, plain and self-adapting."""
    lines = ["| stream | frames | model | runs | mIoU | second half | rejected |", "|---" * 7 + "|"]
    for one in scores:
        runs = "plain" if one.normalize is None else "self-adapting"
        lines.append(
            f"| {one.stream} | {one.frames} | {one.model} | {runs} | {one.miou:.1f} | {one.miou_second_half:.1f} "
            f"| {one.rejected} |"
        )
    return lines


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
        frames = read_stream(data_section(arguments), card.classes, card.size)
        streams = scene_streams(4 if arguments.quick else None, Segmenter.load(demo).card.size)
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
    write_csv(stem.with_suffix(".csv"), rows)
    remark = "One frame of noise through each graph of one bundle in onnxruntime, in turns; `adaptive` moves its state."
    write_markdown(stem.with_suffix(".md"), rows, "Latency of a self-adapting model", remark)
    print(f"written: {stem}.csv, .md and self_adapting_scores.csv, .md")
    return scores


def command(argv: list[str]) -> int:
    """`main`, for the shell."""
    main(argv)
    return 0


if __name__ == "__main__":
    run_entry(command)
