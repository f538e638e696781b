"""The tiny network of `tiny.py` behind one BatchNorm whose statistics are inputs and outputs; three channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from sfda_runtime.card import METADATA_KEY, to_json
from tests.runtime.tiny import SCALE, WEIGHTS, card, model_bytes, write_bundle, write_manifest

START_MEAN = np.array([120, 130, 125], np.float32)
START_VAR = np.array([5000, 5500, 5200], np.float32)
NODES = """
<ir_version: 10, opset_import: ["" : 20]>
tiny (float[n, h, w, 3] x, float[3] bn_mean, float[3] bn_var, float[1] normalize, float[1] update)
    => (float[3] bn_mean_out, float[3] bn_var_out, float[n, h, w, 3] z)
{
    others = Constant <value = int64[3] {0, 1, 2}> ()
    mean = ReduceMean <keepdims = 0> (x, others)
    centered = Sub (x, mean)
    squares = Mul (centered, centered)
    var = ReduceMean <keepdims = 0> (squares, others)
    to_mean = Sub (mean, bn_mean)
    to_var = Sub (var, bn_var)
    moved_mean = Mul (update, to_mean)
    moved_var = Mul (update, to_var)
    bn_mean_out = Add (bn_mean, moved_mean)
    bn_var_out = Add (bn_var, moved_var)
    own_mean = Mul (normalize, to_mean)
    own_var = Mul (normalize, to_var)
    m = Add (bn_mean, own_mean)
    v = Add (bn_var, own_var)
    s = Sqrt (v)
    d = Sub (x, m)
    z = Div (d, s)
}
"""


def adaptive_bytes() -> bytes:
    """The diagnostics graph of `tiny`, its matrix applied to z = (x - m) / sqrt(v)."""
    model = onnx.load_from_string(model_bytes("diagnostics", weights=WEIGHTS * SCALE))
    added = onnx.parser.parse_model(NODES).graph
    for node in model.graph.node:
        if node.op_type == "MatMul":
            node.input[0] = "z"
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([kept[0], *added.node, *kept[1:]])  # the cast to float, then BatchNorm
    model.graph.input.extend(added.input[1:])
    model.graph.output.extend(added.output[:2])
    helper.set_model_props(model, {METADATA_KEY: to_json(card("adaptive"))})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def write_adaptive_bundle(folder: Path) -> Path:
    """A bundle with the self-adapting graph and its start state."""
    write_bundle(folder)
    (folder / "model_adaptive.onnx").write_bytes(adaptive_bytes())
    np.savez(folder / "bn_state.npz", mean=START_MEAN, var=START_VAR, layers=np.array(["bn"]), offsets=np.array([0]))
    write_manifest(folder, [])
    return folder


def statistics_of(frame: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of each channel of a frame (H, W, 3) by numpy."""
    return frame.mean((0, 1), dtype=np.float64), frame.var((0, 1), dtype=np.float64)


def adaptive_labels(
    frame: NDArray[np.uint8], mean: NDArray[np.floating], var: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """Labels (H, W) of a frame normalized with (mean, var), by numpy in float64."""
    return ((frame - mean) / np.sqrt(var) @ WEIGHTS.astype(np.float64)).argmax(-1).astype(np.uint8)
