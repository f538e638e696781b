"""Faults that exports really have, put into an exported file: each must be refused by the gate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper


def swap_channels(model: onnx.ModelProto) -> None:
    """Frames read as BGR."""
    _feed_through(model, "Gather", np.array([2, 1, 0]), axis=3)


def wrong_scale(model: onnx.ModelProto) -> None:
    """Pixels divided by 256 instead of 255."""
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.size == 1 and value.dtype == np.float32 and abs(value.item() - 1 / 255) < 1e-9:
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(value, 1 / 256), tensor.name))
            return
    raise AssertionError("the scale was not found")


def align_corners(model: onnx.ModelProto) -> None:
    """The last upsampling with corners aligned."""
    _sampling(model, b"align_corners")


def half_pixel(model: onnx.ModelProto) -> None:
    """The last upsampling without the offset of half a pixel."""
    _sampling(model, b"asymmetric")


def one_pixel(model: onnx.ModelProto) -> None:
    """Frames of 96 rows shifted down by one pixel."""
    _feed_through(model, "Gather", np.concatenate([[0], np.arange(95)]), axis=1)


FAULTS: dict[str, Callable[[onnx.ModelProto], None]] = {
    fault.__name__: fault for fault in (swap_channels, wrong_scale, align_corners, half_pixel, one_pixel)
}


def with_fault(path: Path, fault: Callable[[onnx.ModelProto], None], folder: Path) -> Path:
    """A copy of the file that has the fault."""
    model = onnx.load(path)
    fault(model)
    onnx.checker.check_model(model)
    onnx.save(model, folder / path.name)
    return folder / path.name


def _feed_through(model: onnx.ModelProto, operator: str, indices: np.ndarray, axis: int) -> None:
    for node in model.graph.node:
        node.input[:] = ["faulty" if name == "frames" else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(indices.astype(np.int64), "fault"))
    model.graph.node.insert(0, helper.make_node(operator, ["frames", "fault"], ["faulty"], axis=axis))


def _sampling(model: onnx.ModelProto, mode: bytes) -> None:
    last = [node for node in model.graph.node if node.op_type == "Resize"][-1]
    (attribute,) = (entry for entry in last.attribute if entry.name == "coordinate_transformation_mode")
    assert attribute.s not in (b"", mode)
    attribute.s = mode
