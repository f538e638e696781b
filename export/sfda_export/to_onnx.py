"""ENTRY `python -m sfda_export.to_onnx RUN --output DIR`: a run's model as ONNX files that prove to be that model."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import nn

from sfda_engine.build import check_forward
from sfda_engine.config import Config
from sfda_engine.data.readers import LabelledImages
from sfda_engine.entry import run_entry
from sfda_engine.errors import UserError
from sfda_export import frames as trial
from sfda_export.bundle import check_output, new_bundle, write_golden, write_manifest
from sfda_export.graph import OUTPUTS, DeployGraph
from sfda_export.latency import eager, latency_card, onnx_file
from sfda_export.onnx_file import OPSETS, export_onnx
from sfda_export.parity import PROVIDER, ParityError, Tolerance, card_of, float32_tolerance, gate
from sfda_export.precision import read_card
from sfda_export.reduce import CALIBRATION_FRAMES, TOLERANCES, check_drop, reduce_files
from sfda_export.reference import Frames, engine_logits
from sfda_export.run import SMALLEST, Exportable, check_size, describe, open_run
from sfda_export.shipped import check_read_out, miou_difference
from sfda_export.unpool import size_multiple
from sfda_runtime.card import Card, Graph, Precision

log = logging.getLogger(__name__)
FILES: dict[Graph, str] = {"labels": "model.onnx", "diagnostics": "model_diag.onnx", "logits": "model_logits.onnx"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line; see --help."""

    run: str
    output: Path
    opset: int = 20
    size: tuple[int, int] | None = None
    fixed: bool = False
    logits: bool = False
    precision: Precision = "fp32"
    frames: str | None = None
    labels: str | None = None
    overrides: tuple[str, ...] = ()


def to_onnx(options: Options, console: Console) -> None:
    """Export, hold the files against the engine, and leave a bundle; or leave nothing.

    Raises UserError for bad input and ParityError where the files are not the model.
    """
    check_output(options.output)
    exportable = open_run(options.run, options.overrides)
    model, info, config = exportable.model, exportable.info, exportable.config
    size = check_size(options.size or info.size, model)
    other = None if options.fixed else trial.second_size(size, size_multiple(model), SMALLEST)
    check_forward(model, size)
    if other is not None:
        check_other_size(model, other)
    frames = read_frames(options, config, size)
    labels = labelled(options, exportable, size)
    batches = trial.gate_batches(frames, other)
    tolerance = float32_tolerance(model) if options.precision == "fp32" else TOLERANCES[options.precision]
    with new_bundle(options.output) as folder:
        card = export_graphs(exportable, size, folder, options, console)
        timed = {"pytorch": eager(deploy_graph(exportable, "labels")), "fp32": onnx_file(folder / FILES["labels"])}
        calibration = None
        if options.precision != "fp32":
            with stage(console, f"converting to {options.precision}"):
                calibrate_on = read_frames(options, config, size, CALIBRATION_FRAMES)
                calibration = reduce_files(folder, options.precision, calibrate_on)
            card = read_card(folder / FILES["labels"])
            timed[options.precision] = onnx_file(folder / FILES["labels"])
        with stage(console, f"comparing with the engine on {len(frames)} frames"):
            parity = prove(exportable, folder, batches, tolerance)
            parity["latency"] = latency_card(timed, np.array(frames[0])[None])
        parity["miou"] = None
        if labels is not None:
            with stage(console, f"reporting mIoU on {len(labels)} labelled frames"):
                names, reference = info.class_names, engine_logits(model, info, torch.float32)
                parity["miou"] = miou_difference(reference, folder / FILES["labels"], labels, size, names)
        if options.precision != "fp32":
            check_drop(parity["miou"], options.precision)
        golden = write_golden(folder, frames, card.palette)
        if not options.logits:
            (folder / FILES["logits"]).unlink()
        write_manifest(folder, card, golden, parity, calibration)
    summarize(options.output, card, parity, console)


def read_frames(
    options: Options, config: Config | None, size: tuple[int, int], count: int = trial.COUNT
) -> list[Image.Image]:
    """Frames to compare or calibrate on. UserError where there are none, or where the run's own are not here."""
    target = trial.target_of(options.frames, config.target if config else None)
    try:
        return trial.read_frames(target, size, count)
    except UserError as error:
        if options.frames is not None:
            raise
        raise UserError(f"the run's target: {error}; or name other frames with --frames DIR") from error


def check_other_size(model: nn.Module, size: tuple[int, int]) -> None:
    """UserError where the network itself takes one size only, so that no graph of it could take any size."""
    try:
        check_forward(model, size)
    except UserError as error:
        raise UserError(f"{error}. If it is made for one size, fix that with --fixed WxH") from error


def export_graphs(
    exportable: Exportable, size: tuple[int, int], folder: Path, options: Options, console: Console
) -> Card:
    """Write the three graphs; returns the card of the labels graph. The logits graph is what the gate measures."""
    width, height = size
    example = torch.zeros(1 if options.fixed else 2, height, width, 3, dtype=torch.uint8)
    card = describe(exportable, size, fixed=options.fixed, precision=options.precision)
    cards = {}
    for graph, name in FILES.items():
        with stage(console, f"exporting {name}"):
            cards[graph] = export_onnx(
                deploy_graph(exportable, graph),
                (example,),
                folder / name,
                input_names=["frames"],
                output_names=OUTPUTS[graph],
                dynamic_shapes=None if options.fixed else ({0: "batch", 1: "height", 2: "width"},),
                card=dataclasses.replace(card, graph=graph),
                opset=options.opset,
            )
    return cards["labels"]


def deploy_graph(exportable: Exportable, graph: Graph) -> DeployGraph:
    """The module that is exported."""
    return DeployGraph(exportable.model, exportable.info.normalization, exportable.info.exposure, graph)


def prove(exportable: Exportable, folder: Path, batches: Sequence[Frames], tolerance: Tolerance) -> dict[str, Any]:
    """The parity card of the files in `folder`. Raises ParityError."""
    model, info = exportable.model, exportable.info
    reference = engine_logits(model, info, torch.float32)
    exact = engine_logits(model, info, torch.float64)
    figures = gate(reference, exact, folder / FILES["logits"], batches, tolerance)
    return {
        "logits": card_of(figures, tolerance),
        "read_out": check_read_out(folder, batches),
        "frames": {"batches": [list(batch.shape) for batch in batches], "sha256": trial.hash_of(batches)},
        "provider": PROVIDER,
        "optimization": "all",
        "threads": torch.get_num_threads(),
        "versions": {"torch": version("torch"), "onnxruntime": onnxruntime.__version__},
    }


def labelled(options: Options, exportable: Exportable, size: tuple[int, int]) -> LabelledImages | None:
    """Labelled frames for the report, None where there are none; a run's own may have stayed on another machine."""
    configured = exportable.config.evaluate if exportable.config else None
    try:
        return trial.labelled(options.labels, configured, exportable.info.num_classes, size)
    except UserError as error:
        if options.labels is not None:
            raise
        log.warning("mIoU is not reported: the run's evaluation set cannot be read (%s)", error)
        return None


def summarize(output: Path, card: Card, parity: dict[str, Any], console: Console) -> None:
    """One table: what was written and how it compares."""
    figures, read_out, miou = parity["logits"]["figures"], parity["read_out"], parity["miou"]
    noise = ", ".join(f"{figures[f'noise_{q}']:.2f}" for q in ("p50", "p90", "p999"))
    reduced = card.precision != "fp32"
    rows = {
        "model": f"{card.arch}, {len(card.classes)} classes, {card.precision}, exposure {card.exposure}",
        "frames": f"{card.size[0]}x{card.size[1]}" + (", fixed" if card.fixed else ", batch and size dynamic"),
        "opset, IR": f"{card.opset}, {card.ir}",
        "error p99.9 / s" if reduced else "noise ratio p50, p90, p99.9": f"{figures['error_p999']:.4f}"
        if reduced
        else noise,
        "labels equal to float64's": f"{figures['agreement']:.4f} %",
        "the same at margin > 0.1 s": f"{figures['agreement_margin_01']:.4f} %",
        "confidence, entropy within 1/255": f"{read_out['confidence']:.4f} %, {read_out['entropy']:.4f} %",
        "mIoU engine, ONNX": f"{miou['engine']:.2f}, {miou['onnx']:.2f}" if miou else "no labels",
        "time to PyTorch's": ", ".join(f"{name} {ratio:.2f}" for name, ratio in parity["latency"]["ratio"].items()),
    }
    table = Table(title=f"bundle {output}", show_header=False)
    for name, value in rows.items():
        table.add_row(name, value)
    table.add_section()
    for path in sorted(output.glob("*.onnx")):
        table.add_row(path.name, f"{path.stat().st_size / 1e6:.2f} MB")
    console.print(table)


@contextmanager
def stage(console: Console, what: str) -> Iterator[None]:
    """A spinner in a terminal, a line elsewhere; then a line with the seconds it took."""
    started = time.monotonic()
    if not console.is_terminal:
        console.print(f"{what} ...", highlight=False, soft_wrap=True)
    with console.status(what):
        yield
    console.print(f"{what}: {time.monotonic() - started:.1f} s", highlight=False, soft_wrap=True)


def size_text(text: str) -> tuple[int, int]:
    """ "WxH" -> (width, height)."""
    width, _, height = text.lower().partition("x")
    try:
        return int(width), int(height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write width x height, for example 512x256") from None


def parse(argv: Sequence[str]) -> Options:
    """The command line as `Options`; argparse ends with code 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m sfda_export.to_onnx",
        description="Export an adapted model (or any weights file) as a bundle of ONNX files. Before the bundle is "
        "left, its files are compared with the engine's own model on real frames in onnxruntime.",
        epilog="--model.KEY VALUE: any other key of section model of the engine's configuration, for weights that do "
        "not describe themselves, for example --model.normalization.channel_order bgr. Exit codes: 0 done; 2 a "
        "mistake in the call; 1 the files differ from the model, or a fault of ours; 130 interrupted. A bundle is "
        "left on 0 alone.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="run folder, weights file, or package:demo_source")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder to make; empty or absent")
    parser.add_argument("--opset", type=int, default=20, choices=OPSETS, help="ONNX opset (default %(default)s)")
    parser.add_argument("--size", metavar="WxH", type=size_text, help="network size; default: the one adapted at")
    parser.add_argument(
        "--fixed", metavar="WxH", type=size_text, help="one frame of this size only, as TensorRT likes it"
    )
    parser.add_argument("--logits", action="store_true", help="ship model_logits.onnx too")
    parser.add_argument("--precision", choices=["fp32", *TOLERANCES], default="fp32", help="default %(default)s")
    parser.add_argument(
        "--frames",
        metavar="DIR",
        help="frames to compare on, or scenes:DOMAIN; default: the run's own target frames",
    )
    parser.add_argument(
        "--labels",
        metavar="DIR",
        help="folder with images/ and labels/ to report the mIoU of both sides on; default: the run's evaluation set. "
        "Labels are reported on, and refuse an fp16 or INT8 file that loses too much; nothing is fitted to them",
    )
    parser.add_argument("--arch", help="architecture of weights that do not say it, as in sfda_engine.evaluate")
    parser.add_argument("--num-classes", metavar="K", help="their number of classes")
    own, overrides = split_model_keys(argv)
    known = parser.parse_args(own)
    if known.size and known.fixed:
        parser.error("--size and --fixed name the size twice; give one of them")
    for key, value in {"arch": known.arch, "num_classes": known.num_classes}.items():
        overrides += [f"--model.{key}", value] if value else []
    return Options(
        run=known.run,
        output=known.output.expanduser(),
        opset=known.opset,
        size=known.fixed or known.size,
        fixed=known.fixed is not None,
        logits=known.logits,
        precision=known.precision,
        frames=known.frames,
        labels=known.labels,
        overrides=tuple(overrides),
    )


def split_model_keys(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take --model.KEY VALUE (or =VALUE) out of a command line: what is left, and what was taken."""
    own, taken = [], []
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        if not token.startswith("--model."):
            own.append(token)
            continue
        if token.startswith("--model.weights"):
            raise UserError("--model.weights: RUN itself names the weights; leave the option out")
        taken.append(token)
        if "=" not in token and tokens:
            taken.append(tokens.pop(0))
    return own, taken


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and export."""
    options = parse(sys.argv[1:] if argv is None else argv)
    try:
        to_onnx(options, Console(stderr=True))
    except ParityError as error:
        print(f"parity gate failed, no bundle written: {error}", file=sys.stderr)
        return 1
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # so that a scheduler's SIGTERM clears up like Ctrl-C


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    run_entry(main)
