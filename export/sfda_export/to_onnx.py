"""ENTRY `python -m sfda_export.to_onnx RUN --output DIR`: a run's model as ONNX files that prove to be that model."""

from __future__ import annotations

import dataclasses
import logging
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from sfda_engine.config.schema import Config
from sfda_engine.data.images import ImageSize
from sfda_engine.data.readers import LabelledImages
from sfda_engine.errors import UserError
from sfda_engine.exit_codes import run_entry
from sfda_engine.models.segmenter import check_forward
from sfda_export import frames as trial
from sfda_export.adaptive_parity import add_adaptive
from sfda_export.bundle import check_output, new_bundle, write_golden, write_manifest
from sfda_export.graph import OUTPUTS, DeployGraph
from sfda_export.latency import eager, latency_card, onnx_file
from sfda_export.onnx_file import export_onnx
from sfda_export.options import Options, parse
from sfda_export.parity import PROVIDER, Tolerance, card_of, float32_tolerance, gate
from sfda_export.precision import read_card
from sfda_export.reduce import CALIBRATION_FRAMES, TOLERANCES, check_drop, reduce_files
from sfda_export.reference import Frames, engine_logits
from sfda_export.run import SMALLEST, Exportable, check_size, describe, open_run
from sfda_export.shipped import check_read_out, miou_difference
from sfda_export.summary import stage, summarize
from sfda_export.unpool import size_multiple
from sfda_runtime.card import Card, Graph

log = logging.getLogger(__name__)
FILES: dict[Graph, str] = {"labels": "model.onnx", "diagnostics": "model_diag.onnx", "logits": "model_logits.onnx"}


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
        if options.self_adapting:
            with stage(console, "exporting model_adaptive.onnx and comparing its state with torch's own update"):
                parity["adaptive"] = add_adaptive(exportable, folder, card, batches)
        golden = write_golden(folder, frames, card.palette)
        if not options.logits:
            (folder / FILES["logits"]).unlink()
        write_manifest(folder, card, golden, parity, calibration)
    summarize(options.output, card, parity, console)


def read_frames(
    options: Options, config: Config | None, size: ImageSize, count: int = trial.COUNT
) -> list[Image.Image]:
    """Frames to compare or calibrate on. UserError where there are none, or where the run's own are not here."""
    target = trial.target_of(options.frames, config.target if config else None)
    try:
        return trial.read_frames(target, size, count)
    except UserError as error:
        if options.frames is not None:
            raise
        raise UserError(f"the run's target: {error}; or name other frames with --frames DIR") from error


def check_other_size(model: nn.Module, size: ImageSize) -> None:
    """UserError where the network itself takes one size only, so that no graph of it could take any size."""
    try:
        check_forward(model, size)
    except UserError as error:
        raise UserError(f"{error}. If it is made for one size, fix that with --fixed WxH") from error


def export_graphs(exportable: Exportable, size: ImageSize, folder: Path, options: Options, console: Console) -> Card:
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


def labelled(options: Options, exportable: Exportable, size: ImageSize) -> LabelledImages | None:
    """Labelled frames for the report, None where there are none; a run's own may have stayed on another machine."""
    configured = exportable.config.evaluate if exportable.config else None
    try:
        return trial.labelled(options.labels, configured, exportable.info.class_names, size)
    except UserError as error:
        if options.labels is not None:
            raise
        log.warning("mIoU is not reported: the run's evaluation set cannot be read (%s)", error)
        return None


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and export."""
    options = parse(sys.argv[1:] if argv is None else argv)
    to_onnx(options, Console(stderr=True))
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # so that a scheduler's SIGTERM clears up like Ctrl-C


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    run_entry(main)
