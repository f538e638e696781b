"""Tiny ONNX graphs with the exporter's contract and results that numpy can tell: the runtime's tests need no exporter.

The network is a matrix: logits = RGB @ WEIGHTS, small whole numbers, so labels are exact on every machine.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from sfda_runtime.card import METADATA_KEY, Card, Graph, to_json

CLASSES = ("red", "green", "blue", "gray")
PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128))
WEIGHTS = np.array([[6, 0, 0, 2], [0, 6, 0, 2], [0, 0, 6, 2]], np.float32)
SCALE = 256.0
SIZE = (64, 48)
FRAME_SHAPE = ["batch", "height", "width", 3]


def card(graph: Graph = "labels", **changes: Any) -> Card:
    facts = Card(
        graph=graph,
        arch="tiny",
        classes=CLASSES,
        palette=PALETTE,
        size=SIZE,
        minimum=(16, 16),
        normalization={"mean": [0, 0, 0], "std": [1, 1, 1], "channel_order": "RGB", "value_range": 255},
        opset=20,
        ir=10,
        weights_sha256="0" * 64,
        versions={"onnx": onnx.__version__},
    )
    return dataclasses.replace(facts, **changes)


def model_bytes(graph: Graph = "labels", description: Card | None = None, *, weights: Any = WEIGHTS) -> bytes:
    """One model of the contract. A pixel whose three values are 13 makes the whole output label 13 (no class)."""
    tensors = {
        "weights": np.asarray(weights, np.float32) / np.float32(SCALE),
        "thirteen": np.array(13, np.uint8),
        "max": np.array(255, np.float32),
        "entropy_of_even": np.array(255 / np.log(len(CLASSES)), np.float32),
        "tiny": np.array(1e-30, np.float32),
        "last": np.array([-1], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["frames"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "weights"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["index"], axis=-1, keepdims=0),
        helper.make_node("Cast", ["index"], ["classes"], to=TensorProto.UINT8),
        helper.make_node("ReduceMin", ["frames", "last"], ["low"], keepdims=0),
        helper.make_node("ReduceMax", ["frames", "last"], ["high"], keepdims=0),
        helper.make_node("Equal", ["low", "high"], ["gray"]),
        helper.make_node("Equal", ["low", "thirteen"], ["is13"]),
        helper.make_node("And", ["gray", "is13"], ["marked"]),
        helper.make_node("Where", ["marked", "thirteen", "classes"], ["labels"]),
    ]
    outputs = ["labels"]
    if graph == "diagnostics":
        outputs += ["confidence", "entropy"]
        nodes += [
            helper.make_node("Softmax", ["y"], ["p"], axis=-1),
            helper.make_node("ReduceMax", ["p", "last"], ["top"], keepdims=0),
            helper.make_node("Mul", ["top", "max"], ["top255"]),
            helper.make_node("Round", ["top255"], ["top_rounded"]),
            helper.make_node("Cast", ["top_rounded"], ["confidence"], to=TensorProto.UINT8),
            helper.make_node("Add", ["p", "tiny"], ["p_safe"]),
            helper.make_node("Log", ["p_safe"], ["logp"]),
            helper.make_node("Mul", ["p", "logp"], ["plogp"]),
            helper.make_node("ReduceSum", ["plogp", "last"], ["negative"], keepdims=0),
            helper.make_node("Neg", ["negative"], ["h"]),
            helper.make_node("Mul", ["h", "entropy_of_even"], ["h255"]),
            helper.make_node("Round", ["h255"], ["h_rounded"]),
            helper.make_node("Cast", ["h_rounded"], ["entropy"], to=TensorProto.UINT8),
        ]
    used = {name for node in nodes for name in node.input}
    built = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, FRAME_SHAPE)],
        [helper.make_tensor_value_info(name, TensorProto.UINT8, FRAME_SHAPE[:3]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in tensors.items() if name in used],
    )
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: to_json(description or card(graph))})
    return model.SerializeToString()


def labels_of(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The labels (H, W) of a frame (H, W, 3) by numpy in whole numbers."""
    return (frame.astype(np.int64) @ WEIGHTS.astype(np.int64)).argmax(-1).astype(np.uint8)


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """A frame (H, W, 3) of colored noise; no pixel is 13, 13, 13."""
    frame = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    frame[(frame == 13).all(-1)] = 14
    return frame


def broken_output(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame with one pixel for which the tiny network gives a label that is no class."""
    marked = frame.copy()
    marked[0, 0] = 13
    return marked


def write_bundle(folder: Path, golden: int = 2, **changes: Any) -> Path:
    """A bundle as the exporter leaves it, with the labels and the diagnostics graph."""
    (folder / "golden").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model_bytes("labels", card("labels", **changes)))
    (folder / "model_diag.onnx").write_bytes(model_bytes("diagnostics", card("diagnostics", **changes)))
    pairs = []
    for number in range(golden):
        frame = picture(100 + number)
        names = {"frame": f"golden/{number}.png", "labels": f"golden/{number}_labels.png"}
        Image.fromarray(frame).save(folder / names["frame"])
        index = Image.fromarray(labels_of(frame)).convert("P")
        index.putdata(list(labels_of(frame).ravel()))
        index.putpalette([value for color in PALETTE for value in color])
        index.save(folder / names["labels"])
        pairs.append(names)
    write_manifest(folder, pairs, **changes)
    return folder


def write_manifest(folder: Path, golden: list[dict[str, str]], **changes: Any) -> None:
    """The manifest of the files that lie in the folder now."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    content = {
        "format": 1,
        "card": json.loads(to_json(card("labels", **changes))),
        "files": {
            path.relative_to(folder).as_posix(): {
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "bytes": path.stat().st_size,
            }
            for path in files
        },
        "golden": golden,
        "parity": {"verdict": "same model"},
        "calibration": None,
    }
    (folder / "manifest.json").write_text(json.dumps(content))
