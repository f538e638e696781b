"""One exported graph as one ONNX file: opset as asked, no trace of this machine, the card as its only metadata."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import Message
from torch import Tensor, nn

from sfda_engine.errors import UserError
from sfda_engine.files import whole_file
from sfda_runtime.card import METADATA_KEY, Card, to_json

OPSETS = range(18, 23)
"""Opsets that the exporter emits as asked: below 18 its down-converter fails and says so in a log line only."""
LARGEST = 2**31 - 1
"""Bytes of one protobuf message; a larger model would need a second file."""
# stack traces, class names and absolute paths of this machine; nothing in them changes what a graph computes
TRACES = ("metadata_props", "doc_string", "value_info")

DynamicShapes = tuple[dict[int, str] | None, ...]


def export_onnx(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_shapes: DynamicShapes | None,
    card: Card,
    opset: int = 20,
) -> Card:
    """Write `graph` to the one file `path` and return `card` with the opset and IR version that were emitted.

    dynamic_shapes: for each input its dynamic dimensions by name, {0: "batch"}, or None; None alone = all fixed.
    The same module and example give the same bytes. Raises UserError: the network cannot be exported, it holds on
    to a size that was to be dynamic, the exporter emitted another opset, or the file would pass 2 GB.
    """
    if opset not in OPSETS:
        raise UserError(f"opset {opset} is not supported: choose one of {OPSETS[0]} to {OPSETS[-1]}")
    model = _exported(graph, example, input_names, output_names, dynamic_shapes, opset)
    strip_traces(model)
    emitted = {entry.domain: entry.version for entry in model.opset_import}
    if emitted.get("") != opset:
        raise UserError(f"the exporter emitted opset {emitted.get('')}, not {opset}: ask for another --opset")
    _check_dimensions(model, input_names, dynamic_shapes)
    card = dataclasses.replace(card, opset=opset, ir=model.ir_version)
    write_onnx(model, path, card)
    return card


def write_onnx(model: onnx.ModelProto, path: Path, card: Card) -> None:
    """Check the model and write it with `card` as its only metadata, whole or not at all; one file.

    Raises UserError where it would pass 2 GB.
    """
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=to_json(card))
    if model.ByteSize() > LARGEST:
        raise UserError(f"{path.name} would have {model.ByteSize() / 1e9:.1f} GB: one ONNX file holds at most 2 GB")
    onnx.checker.check_model(model)
    with whole_file(path) as partial:
        partial.write_bytes(model.SerializeToString(deterministic=True))


def strip_traces(message: Message) -> None:
    """Clear every field of TRACES in a protobuf message and in all that it holds."""
    for field, value in message.ListFields():
        if field.name in TRACES:
            message.ClearField(field.name)
        elif isinstance(value, Message):
            strip_traces(value)
        elif field.message_type is not None:
            for part in value:
                strip_traces(part)


def _exported(
    graph: nn.Module,
    example: tuple[Tensor, ...],
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_shapes: DynamicShapes | None,
    opset: int,
) -> onnx.ModelProto:
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph.eval(),
                example,
                dynamo=True,
                opset_version=opset,
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_shapes=dynamic_shapes,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(_explain(error, dynamic=dynamic_shapes is not None)) from error
    assert program is not None
    return program.model_proto


def _explain(error: Exception, *, dynamic: bool) -> str:
    """What failed, in the words of the innermost cause, and what to do."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    first = next(filter(str.strip, str(cause).splitlines()), type(cause).__name__).strip()
    if dynamic:
        return f"the network cannot be exported for frames of any size ({first}); fix one size with --fixed WxH"
    return f"the network cannot be exported ({first}); rewrite that part with operators that torch.onnx.export knows"


def _check_dimensions(model: onnx.ModelProto, input_names: Sequence[str], dynamic_shapes: DynamicShapes | None) -> None:
    """UserError where a dimension that was to be dynamic came out as a number."""
    for name, value, dynamic in zip(
        input_names, model.graph.input, dynamic_shapes or [None] * len(input_names), strict=True
    ):
        for index, wanted in (dynamic or {}).items():
            dimension = value.type.tensor_type.shape.dim[index]
            if dimension.dim_param != wanted:
                raise UserError(
                    f"the network holds on to {wanted} = {dimension.dim_value} of its input {name}: "
                    "fix the size with --fixed WxH"
                )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's progress lines, warnings and log records say nothing that a user could act on."""
    disabled: Any = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
