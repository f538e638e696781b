"""Fewer bits, the same model: what is reduced and what is not, read off the file, and its results on unseen frames."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper, parser

from sfda_engine.config.loader import resolve_weights
from sfda_engine.data.images import ImageSize
from sfda_engine.data.scenes.render import render_scene
from sfda_engine.errors import UserError
from sfda_engine.models.weights import build_from_weights
from sfda_export.graph import DeployGraph
from sfda_export.onnx_file import export_onnx
from sfda_export.parity import ParityError, float32_tolerance, gate
from sfda_export.precision import parts_of, read_card, reduce_precision
from sfda_export.reduce import TOLERANCES
from sfda_export.reference import engine_logits
from sfda_runtime.card import Card

SIZE = ImageSize(128, 96)
Frame = NDArray[np.uint8]

NETWORK = """
<ir_version: 10, opset_import: ["" : 20]>
agraph (float[N, 3, H, W] frames) => (float[N, 2, H, W] logits)
<float[2, 3, 1, 1] w1 = {1, 1, 1, 1, 1, 1}, float[2, 2, 1, 1] w2 = {1, 1, 1, 1}, float[2, 2, 1, 1] w3 = {1, 1, 1, 1}>
{
    [size] sizes = Shape (frames)
    [log] light = Log (frames)
    [add] bright = Add (light, light)
    [conv1] a = Conv (bright, w1)
    [relu1] b = Relu (a)
    [conv2] c = Conv (b, w2)
    [skip] d = Add (b, c)
    [conv3] e = Conv (d, w3)
    [finite] f = Sub (c, c)
    [up] logits = Resize (e, , , sizes)
}
"""


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return [render_scene("night", seed, SIZE).image for seed in range(12)]


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped source model with exposure, labels and logits out."""
    model, info = build_from_weights(resolve_weights("package:demo_source"))
    path = tmp_path_factory.mktemp("fp32") / "model.onnx"
    card = Card(
        graph="logits", arch=info.arch, classes=info.class_names, palette=info.palette, size=SIZE, exposure="gamma",
        normalization=dataclasses.asdict(info.normalization), opset=20, ir=10, weights_sha256="0" * 64, versions={},
    )  # fmt: skip
    export_onnx(
        DeployGraph(model, info.normalization, "gamma", "logits"),
        (torch.zeros(2, SIZE[1], SIZE[0], 3, dtype=torch.uint8),),
        path,
        input_names=["frames"],
        output_names=["labels", "logits"],
        dynamic_shapes=({0: "batch", 1: "height", 2: "width"},),
        card=card,
    )
    return path


@pytest.fixture(scope="module")
def fp16(fp32: Path) -> Path:
    reduce_precision(fp32, fp32.with_name("fp16.onnx"), "fp16", [])
    return fp32.with_name("fp16.onnx")


@pytest.fixture(scope="module")
def int8(fp32: Path, frames: list[Frame]) -> Path:
    reduce_precision(fp32, fp32.with_name("int8.onnx"), "int8", frames[:6])
    return fp32.with_name("int8.onnx")


@pytest.fixture(params=["fp16", "int8"])
def reduced(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def run(path: Path, batch: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    labels, logits = session.run(["labels", "logits"], {"frames": batch})
    return labels, logits


def test_parts_of_a_network_drawn_by_hand() -> None:
    parts = parts_of(parser.parse_model(NETWORK).graph)
    assert parts.before == {"size", "log", "add"}
    assert parts.between == {"relu1", "conv2", "skip", "conv3"}


@pytest.mark.parametrize(("precision", "largest_error", "agreement"), [("fp16", 5e-3, 0.999), ("int8", 0.15, 0.99)])
def test_unseen_frames_get_the_labels_of_float32(
    fp32: Path, frames: list[Frame], precision: str, largest_error: float, agreement: float
) -> None:
    reduce_precision(fp32, fp32.with_name("again.onnx"), precision, frames[:6])  # type: ignore[arg-type]
    batch = np.stack(frames[6:])
    expected_labels, expected = run(fp32, batch)
    labels, logits = run(fp32.with_name("again.onnx"), batch)
    assert (labels.dtype, logits.dtype) == (np.uint8, np.float32)
    error = np.quantile(np.abs(logits - expected), 0.999) / expected.std()
    assert 0 < error < largest_error
    assert (labels == expected_labels).mean() > agreement
    assert len(np.unique(labels)) > 4


def test_any_batch_and_size(reduced: Path) -> None:
    batch = np.stack([render_scene("night", seed, (97, 61)).image for seed in range(3)])
    labels, logits = run(reduced, batch)
    assert labels.shape == (3, 61, 97)
    assert logits.shape == (3, 9, 61, 97)


def test_the_file_says_its_precision_and_nothing_of_this_machine(fp32: Path, reduced: Path) -> None:
    model = onnx.load(reduced)
    assert read_card(reduced) == dataclasses.replace(read_card(fp32), precision=reduced.stem)
    assert [entry.key for entry in model.metadata_props] == ["sfda"]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert not model.graph.value_info
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert str(Path(__file__).parents[2]).encode() not in reduced.read_bytes()
    assert b"/tmp" not in reduced.read_bytes()
    assert reduced.stat().st_size < 0.51 * fp32.stat().st_size


def test_the_same_input_gives_the_same_bytes(fp32: Path, reduced: Path, frames: list[Frame], tmp_path: Path) -> None:
    reduce_precision(fp32, tmp_path / "second.onnx", reduced.stem, frames[:6])  # type: ignore[arg-type]
    first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (reduced, tmp_path / "second.onnx"))
    assert first == second
    assert [path.name for path in tmp_path.iterdir()] == ["second.onnx"]


def test_preprocessing_is_float32_to_the_bit(fp32: Path, reduced: Path, frames: list[Frame]) -> None:
    """What reaches the first convolution, read out of both files."""
    values = []
    for path in (fp32, reduced):
        model = onnx.shape_inference.infer_shapes(onnx.load(path))
        source = next(node for node in model.graph.node if node.op_type == "Conv").input[0]
        casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
        source = casts.get(source, source)  # float16's one cast, behind the preprocessing
        model.graph.output.append(next(value for value in model.graph.value_info if value.name == source))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        values.append(session.run([source], {"frames": frames[0][None]})[0])
    assert values[0].dtype == np.float32
    assert values[0].std() > 0.1
    np.testing.assert_array_equal(values[0], values[1])


def test_fp16_has_no_float32_weight_left(fp16: Path) -> None:
    model = onnx.load(fp16)
    weights = {entry.name: entry for entry in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(layers) == 19
    assert {weights[name].data_type for node in layers for name in node.input[1:]} == {TensorProto.FLOAT16}


def test_int8_weights_are_the_float_ones_rounded_channel_by_channel(fp32: Path, int8: Path) -> None:
    """By hand: scale = max |w| / 127 over each output channel. All layers but the first one."""
    plain = {entry.name: numpy_helper.to_array(entry) for entry in onnx.load(fp32).graph.initializer}
    graph = onnx.load(int8).graph
    arrays = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    first, *others = [node for node in graph.node if node.op_type == "Conv"]
    np.testing.assert_array_equal(arrays[first.input[1]], plain[first.input[1]])
    assert len(others) == 18
    for layer in others:
        quantized, scale, zero = (arrays[name] for name in makers[layer.input[1]].input)
        weight = plain[makers[layer.input[1]].input[0].removesuffix("_quantized")]
        assert quantized.dtype == np.int8
        assert not zero.any()
        np.testing.assert_allclose(scale, np.abs(weight).max((1, 2, 3)) / 127, rtol=1e-5)
        assert (np.abs(weight - quantized * scale[:, None, None, None]) <= 0.501 * scale[:, None, None, None]).all()
        assert arrays[makers[layer.input[0]].input[2]].dtype == np.uint8


def test_the_gate_takes_both_and_refuses_int8_that_was_calibrated_in_the_dark(
    fp32: Path, fp16: Path, int8: Path, frames: list[Frame], tmp_path: Path
) -> None:
    model, info = build_from_weights(resolve_weights("package:demo_source"))
    info = dataclasses.replace(info, exposure="gamma")
    reference, exact = (engine_logits(model, info, dtype) for dtype in (torch.float32, torch.float64))
    batches = [np.stack(frames[6:8]), *(frame[None] for frame in frames[8:])]
    for precision, path in (("fp16", fp16), ("int8", int8)):
        gate(reference, exact, path, batches, TOLERANCES[precision])  # type: ignore[index]
        with pytest.raises(ParityError, match="noise_p50"):
            gate(reference, exact, path, batches, float32_tolerance(model))
    with pytest.raises(ParityError, match="error_p999"):
        gate(reference, exact, int8, batches, TOLERANCES["fp16"])
    dark = [np.zeros_like(frames[0])] * 2
    reduce_precision(fp32, tmp_path / "dark.onnx", "int8", dark)
    with pytest.raises(ParityError, match="agreement_margin_1"):
        gate(reference, exact, tmp_path / "dark.onnx", batches, TOLERANCES["int8"])


def test_a_network_of_one_layer_has_nothing_to_quantize(tmp_path: Path, fp32: Path) -> None:
    text = NETWORK.replace("[conv2] c = Conv (b, w2)", "[conv2] c = Neg (b)")
    model = parser.parse_model(text.replace("[conv3] e = Conv (d, w3)", "[conv3] e = Neg (d)"))
    model.metadata_props.extend(onnx.load(fp32).metadata_props)
    onnx.save(model, tmp_path / "one.onnx")
    with pytest.raises(UserError, match=r"one\.onnx"):
        reduce_precision(tmp_path / "one.onnx", tmp_path / "int8.onnx", "int8", [np.zeros((8, 8, 3), np.uint8)])
    assert [path.name for path in tmp_path.iterdir()] == ["one.onnx"]
