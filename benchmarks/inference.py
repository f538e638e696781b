"""python -m benchmarks.inference: one uint8 frame in, labels out: onnxruntime, fp32 and INT8, against PyTorch on a CPU.

Every provider does the same work on the same frames with the same number of threads (OMP_NUM_THREADS), batch 1:
scaling, normalization, network, upsampling, argmax. Labels are checked before anything is timed.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.common.measure import Timed, time_in_turns
from benchmarks.common.plot import plot
from benchmarks.common.row import Row, stamp, write_table
from sfda_engine.config.loader import resolve_weights
from sfda_engine.data.images import ImageSize
from sfda_engine.data.scenes.render import render_scene
from sfda_engine.models import build_segmenter
from sfda_engine.models.norms import reestimate_statistics
from sfda_engine.models.preprocess import Exposure, Preprocess
from sfda_engine.models.weights import WeightsInfo, build_from_weights
from sfda_export.graph import DeployGraph
from sfda_export.latency import Runner, eager, onnx_file
from sfda_export.onnx_file import export_onnx
from sfda_export.precision import reduce_precision
from sfda_export.reference import engine_logits
from sfda_runtime.card import Card

CLASSES = 19
CPU = torch.device("cpu")
Labels = list[NDArray[np.integer]]
"""(1, H, W) a frame."""
SHIPPED = "package:demo_source"
FP32_ALLOWED = 1e-3
"""Largest share of pixels with another label than the engine's in float64."""
INT8_ALLOWED = 1.25
"""The same share for INT8, in units of what its file has when computed in float32. It is large with random weights,
which magnify any rounding: there it tells of the kernels, nothing of INT8."""
FRAMES = 3
BASELINES = ("eager fp32", "torch.compile fp32")
REMARK = """One uint8 frame to labels, end to end, as the engine's `DeployGraph` and the files that `to_onnx` writes.
streetnet has the shipped weights, the others random ones with BN statistics that fit the frames. max error: share of
pixels with another label than the engine's in float64; random weights magnify INT8's, so it has to be no larger than
the same file's computed in float32 (times 1.25). Loss of INT8 on trained models: see the parity card of `to_onnx`."""


@dataclass(frozen=True)
class Network:
    """What is run: an architecture, with or without the exposure correction of an adapted model."""

    arch: str
    exposure: Exposure = "none"

    @property
    def name(self) -> str:
        return self.arch + ("" if self.exposure == "none" else f" + {self.exposure}")


NETWORKS = (
    Network("streetnet"),
    Network("streetnet", "gamma"),
    Network("lraspp_mobilenet_v3_large"),
    Network("deeplabv3_resnet50"),
)


@dataclass(frozen=True)
class Provider:
    """One way from a frame to labels, and the largest error that is still called right."""

    run: Runner
    allowed: float


def load(network: Network, frames: list[NDArray[np.uint8]]) -> tuple[nn.Module, WeightsInfo]:
    """The shipped weights where there are some, else random ones whose BN statistics fit the frames."""
    if network.arch == "streetnet":
        model, info = build_from_weights(resolve_weights(SHIPPED))
        return model.eval(), dataclasses.replace(info, exposure=network.exposure)
    torch.manual_seed(0)
    info = WeightsInfo(arch=network.arch, num_classes=CLASSES, exposure=network.exposure)
    model = build_segmenter(network.arch, CLASSES).eval()
    preprocess = Preprocess(info.normalization, info.exposure)
    images = torch.stack([torch.from_numpy(frame[0]).permute(2, 0, 1) / 255 for frame in frames])
    reestimate_statistics(model, [preprocess(images)])
    return model.eval(), info


def export(graph: DeployGraph, info: WeightsInfo, size: ImageSize, path: Path) -> None:
    """The labels graph as `to_onnx` writes it: any batch, any size."""
    card = Card(
        arch=info.arch, classes=info.class_names, palette=info.palette, size=size, exposure=info.exposure,
        normalization=dataclasses.asdict(info.normalization), opset=20, ir=10, weights_sha256="", versions={},
    )  # fmt: skip
    export_onnx(
        graph,
        (torch.zeros(2, size[1], size[0], 3, dtype=torch.uint8),),
        path,
        input_names=["frames"],
        output_names=["labels"],
        dynamic_shapes=({0: "batch", 1: "height", 2: "width"},),
        card=card,
    )


def in_float32(path: Path) -> Runner:
    """A quantized file with no kernel of INT8: every layer between its own rounding steps in float32."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda frames: session.run(["labels"], {"frames": frames})[0]


def providers(
    graph: DeployGraph,
    info: WeightsInfo,
    frames: list[NDArray[np.uint8]],
    truth: Labels,
    folder: Path,
    *,
    compiled: bool,
) -> dict[str, Provider]:
    """All ways by name, eager PyTorch first."""
    fp32, int8 = folder / "fp32.onnx", folder / "int8.onnx"
    export(graph, info, ImageSize(frames[0].shape[2], frames[0].shape[1]), fp32)
    reduce_precision(fp32, int8, "int8", [frame[0] for frame in frames])
    found = {"eager fp32": Provider(eager(graph), FP32_ALLOWED)}
    if compiled:
        fast = copy.deepcopy(graph)
        fast.compile(dynamic=False)
        found["torch.compile fp32"] = Provider(eager(fast), FP32_ALLOWED)
    found["onnxruntime fp32"] = Provider(onnx_file(fp32), FP32_ALLOWED)
    simulated = error_of(in_float32(int8), frames, truth)
    found["onnxruntime INT8"] = Provider(onnx_file(int8), FP32_ALLOWED + INT8_ALLOWED * simulated)
    return found


def error_of(run: Runner, frames: list[NDArray[np.uint8]], truth: Labels) -> float:
    """Share of pixels, over all frames, with another label than `truth` has."""
    return float(np.mean([run(frame) != labels for frame, labels in zip(frames, truth, strict=True)]))


def measure(network: Network, frames: list[NDArray[np.uint8]], *, seconds: float, compiled: bool) -> list[Row]:
    """Check all providers, time those that are right, in turns; one row each."""
    model, info = load(network, frames)
    exact = engine_logits(model, info, torch.float64)
    truth = [exact(frame).argmax(1) for frame in frames]
    graph = DeployGraph(model, info.normalization, info.exposure, "labels")
    with tempfile.TemporaryDirectory() as folder:
        found = providers(graph, info, frames, truth, Path(folder), compiled=compiled)
    errors = {name: error_of(provider.run, frames, truth) for name, provider in found.items()}
    right = {name: provider for name, provider in found.items() if errors[name] <= provider.allowed}
    timed = {name: Timed(provider.run, lambda: frames[0]) for name, provider in right.items()}
    times = time_in_turns(timed, CPU, seconds=seconds, warmup=2)
    rows = []
    for name, provider in found.items():
        row = Row(
            op="inference",
            provider=name,
            direction="frame to labels",
            shape=f"{network.name} {frames[0].shape[2]}x{frames[0].shape[1]} B=1",
            dtype="uint8",
            max_error=errors[name],
        )
        if name in right:
            p20, p50, p80 = times[name]
            row = dataclasses.replace(row, p20_ms=p20, p50_ms=p50, p80_ms=p80, images_per_second=1e3 / p50)
        else:
            told = f"wrong: {errors[name]:.1e} of the labels over {provider.allowed:.0e}, not timed"
            row = dataclasses.replace(row, note=told)
        rows.append(stamp(row))
    return rows


def ratios(rows: Iterable[Row]) -> list[str]:
    """One line for each timed onnxruntime row: its speed in units of each baseline's."""
    timed = {(row.shape, row.provider): row.p50_ms for row in rows if row.p50_ms is not None}
    lines = []
    for (shape, provider), own in timed.items():
        bases = {name: timed[shape, name] for name in BASELINES if (shape, name) in timed}
        if provider not in BASELINES and bases:
            told = ", ".join(f"{base / own:.2f}x the speed of {name}" for name, base in bases.items())
            lines.append(f"{shape}, {provider}: {told}")
    return lines


def write_results(stem: Path, rows: list[Row]) -> None:
    """CSV of the rows; Markdown of rows and ratios; bars."""
    remark = f"{REMARK} onnxruntime {onnxruntime.__version__}.\n" + "".join(f"\n- {line}" for line in ratios(rows))
    write_table(stem, rows, "Inference on a CPU", remark)
    plot(stem.with_suffix(".csv"))


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 256), metavar=("W", "H"))
    parser.add_argument("--output", default="benchmarks/results")
    parser.add_argument("--seconds", type=float, default=20.0, help="least time for all providers of a network")
    parser.add_argument("--quick", action="store_true", help="streetnet at 64x32, not compiled: shows that it runs")
    arguments = parser.parse_args(argv)
    size = ImageSize(64, 32) if arguments.quick else ImageSize(*arguments.size)
    frames = [render_scene("day", seed, size).image[None] for seed in range(FRAMES)]
    rows: list[Row] = []
    for network in NETWORKS[:1] if arguments.quick else NETWORKS:
        seconds = 0.0 if arguments.quick else arguments.seconds
        rows += measure(network, frames, seconds=seconds, compiled=not arguments.quick)
        write_results(Path(arguments.output) / "inference_cpu", rows)  # after each: a later one may take too long
    print((Path(arguments.output) / "inference_cpu.md").read_text())
    return rows


if __name__ == "__main__":
    main()
