"""A float32 ONNX file in fewer bits: float16 for GPUs, INT8 for processors with VNNI instructions and for TensorRT.

Both leave preprocessing in float32: exposure is a chain of logarithms and powers to which 8 bits, or 11, are not
enough, and it is a small part of the time. INT8 leaves the read-out alone too: upsampling, argmax, entropy.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.compose import add_prefix, merge_models
from onnx.utils import Extractor
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from sfda_engine.errors import UserError
from sfda_export.onnx_file import strip_traces, write_onnx
from sfda_runtime.card import METADATA_KEY, Card, from_json

LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""Operators with weights: what no layer feeds is preprocessing, what feeds no layer is read-out."""


def reduce_precision(
    path: Path, output: Path, precision: Literal["fp16", "int8"], frames: Sequence[NDArray[np.uint8]]
) -> Card:
    """Write the float32 model at `path` in fewer bits to the one file `output`; its card, with the new precision.

    frames: uint8 (H, W, 3) RGB of the target at the model's size, to calibrate INT8 on; fp16 looks at none. The same
    file and frames give the same bytes. Raises UserError where there is nothing to quantize.
    """
    card = read_card(path)
    model = to_fp16(path) if precision == "fp16" else to_int8(path, frames)
    strip_traces(model)
    declare_used_opsets(model)
    card = dataclasses.replace(card, precision=precision, ir=model.ir_version)
    write_onnx(model, output, card)
    return card


def declare_used_opsets(model: onnx.ModelProto) -> None:
    """Each operator set once, and only if a node needs it: the tools declare all that they know, or one twice."""
    used = {node.domain for node in model.graph.node}
    versions = {entry.domain: entry.version for entry in model.opset_import if entry.domain in used}
    del model.opset_import[:]
    model.opset_import.extend(onnx.helper.make_opsetid(domain, number) for domain, number in versions.items())


def read_card(path: Path) -> Card:
    """The card in the metadata of an exported model."""
    entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return from_json(entries[METADATA_KEY], str(path))


class Parts(NamedTuple):
    """Names of nodes by their place among the layers."""

    before: set[str]
    """Nodes that no layer feeds: preprocessing, and the arithmetic of sizes."""
    between: set[str]
    """Nodes on a way from one layer to another, but for the layers at its start."""


def parts_of(graph: onnx.GraphProto) -> Parts:
    """The parts of a graph whose nodes have names and stand in topological order, as the exporter leaves them."""
    fed: set[str] = set()
    fed_nodes, layers = set(), set()
    for node in graph.node:
        if any(name in fed for name in node.input):
            fed_nodes.add(node.name)
        elif node.op_type in LAYERS:
            layers.add(node.name)
        else:
            continue
        fed.update(node.output)
    feeding: set[str] = set()
    feeding_nodes = set()
    for node in reversed(graph.node):
        if node.op_type in LAYERS or any(name in feeding for name in node.output):
            feeding_nodes.add(node.name)
            feeding.update(node.input)
    return Parts(before={node.name for node in graph.node} - fed_nodes - layers, between=fed_nodes & feeding_nodes)


def to_fp16(path: Path) -> onnx.ModelProto:
    """The model with float16 weights and arithmetic behind its preprocessing; inputs and outputs keep their types.

    For CUDA and TensorRT: a CPU computes it in float32 all the same, and rounds only one side of the comparisons by
    which SegNet unpools, so that the gate refuses a SegNet in float16.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    inputs, outputs = ([value.name for value in values] for values in (model.graph.input, model.graph.output))
    before = parts_of(model.graph).before
    made = {name for node in model.graph.node if node.name in before for name in node.output}
    needed = {name for node in model.graph.node if node.name not in before for name in node.input}
    border = sorted(made & needed)
    # in two pieces, as the converter rounds every value between two nodes that it was told to leave alone
    extract = Extractor(model).extract_model
    preprocessing, network = extract(inputs, border), extract(border, outputs)
    network = convert_float_to_float16(network, keep_io_types=True)
    OnnxModel.graph_topological_sort(network.graph, is_deterministic=True)  # it appends its casts at the end
    strip_traces(preprocessing)
    strip_traces(network)
    # constants that both pieces use would meet under one name in two types
    network = add_prefix(network, "fp16.", rename_edges=False, rename_inputs=False, rename_outputs=False)
    return merge_models(preprocessing, network, io_map=[(name, name) for name in border])


def to_int8(path: Path, frames: Sequence[NDArray[np.uint8]]) -> onnx.ModelProto:
    """The model with INT8 weights (signed, a scale per output channel) and activations (unsigned, a scale per tensor).

    Ranges run from the least to the largest value over `frames`. The first layer stays in float32: with three input
    channels INT8 is slower there, and less exact (0.50 and 0.58 of float32's time, 97.6 and 95.7 mIoU to its labels).
    A processor without VNNI instructions may saturate 8 by 8 bits.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        # symbolic shape inference fails on the exporter's dynamic sizes and is not needed
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        between = parts_of(graph).between
        if not between:
            raise UserError(f"{path.name} has no layer behind its first one: nothing to quantize; export it as fp32")
        quantize_static(
            prepared,
            quantized,
            CalibrationFrames(graph.input[0].name, frames),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=[node.name for node in graph.node if node.name not in between],
        )
        return onnx.load(quantized)


class CalibrationFrames(CalibrationDataReader):
    """One frame a call, as a batch of one, then None."""

    def __init__(self, name: str, frames: Sequence[NDArray[np.uint8]]) -> None:
        self.feeds = iter([{name: frame[None]} for frame in frames])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        return next(self.feeds, None)
