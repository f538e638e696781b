"""The self-adapting graph as a file: one export of the shipped source model, its gate, and a drive into the night."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from sfda_engine.data.images import ImageSize
from sfda_engine.data.scenes.render import render_scene
from sfda_engine.evaluation.scores import scores_of
from sfda_engine.exit_codes import exit_code
from sfda_export import adaptive_parity, to_onnx
from sfda_export.adaptive_parity import gate_adaptive
from sfda_export.options import parse
from sfda_export.parity import ParityError, Tolerance, confusion_of, open_session
from sfda_export.run import Exportable, open_run
from sfda_runtime import AdaptiveSegmenter, Segmenter, Status
from sfda_runtime.manifest import read_manifest

SIZE = ImageSize(96, 64)
SOURCE = "package:demo_source"
COMMAND = [SOURCE, "--frames", "scenes:night", "--size", "96x64", "--self-adapting", "--output"]
pytestmark = pytest.mark.slow  # one bundle, about 25 s


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("self_adapting") / "bundle"
    assert to_onnx.main([*COMMAND, str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def source() -> Exportable:
    return open_run(SOURCE)


@pytest.fixture(scope="module")
def batches() -> list[NDArray[np.uint8]]:
    return [render_scene("rain", seed, SIZE).image[None] for seed in range(4)]


def test_the_bundle_answers_for_the_adaptive_files(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert {"model_adaptive.onnx", "bn_state.npz"} <= set(manifest.files)
    assert manifest.parity is not None
    state = manifest.parity["adaptive"]["state"]
    assert state["frames"] == 8
    assert 0 < state["mean"] < 1e-5
    assert 0 < state["var"] < 1e-5
    arrays = np.load(bundle / "bn_state.npz", allow_pickle=False)
    assert len(arrays["layers"]) == len(arrays["offsets"]) == 18
    assert arrays["layers"][0] == "low.0.1"


def test_names_and_dimensions_of_the_contract(bundle: Path) -> None:
    session = open_session(bundle / "model_adaptive.onnx")
    channels = np.load(bundle / "bn_state.npz")["mean"].size
    inputs = {node.name: (node.type, node.shape) for node in session.get_inputs()}
    assert inputs == {
        "frames": ("tensor(uint8)", ["batch", "height", "width", 3]),
        "bn_mean": ("tensor(float)", [channels]),
        "bn_var": ("tensor(float)", [channels]),
        "normalize": ("tensor(float)", [1]),
        "update": ("tensor(float)", [1]),
    }
    outputs = [node.name for node in session.get_outputs()]
    assert outputs == ["labels", "confidence", "entropy", "bn_mean_out", "bn_var_out"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["sfda"])["graph"] == "adaptive"


def test_at_rest_it_is_the_plain_model(bundle: Path, batches: list[NDArray[np.uint8]]) -> None:
    adaptive, plain = AdaptiveSegmenter.load(bundle), Segmenter.load(bundle, diagnostics=True)
    adaptive.network.learning = False
    for batch in batches:
        ours, theirs = adaptive(batch[0]), plain(batch[0])
        assert np.mean(ours.labels == theirs.labels) > 0.9999
        assert ours.entropy is not None
        assert theirs.entropy is not None
        assert np.abs(ours.entropy.astype(int) - theirs.entropy).max() <= 1
    assert adaptive.state is adaptive.network.start


def test_batches_and_other_sizes_run(bundle: Path, batches: list[NDArray[np.uint8]]) -> None:
    start = np.load(bundle / "bn_state.npz")
    zero = np.zeros(1, np.float32)
    frames = np.concatenate(batches[:3])[:, :50, :70]
    feeds = {"frames": frames, "bn_mean": start["mean"], "bn_var": start["var"], "normalize": zero, "update": zero}
    labels = open_session(bundle / "model_adaptive.onnx").run(["labels"], feeds)[0]
    assert labels.shape == (3, 50, 70)


def edit_batch_norm(model: onnx.ModelProto, change: Callable[[onnx.NodeProto, dict[str, Any]], None]) -> None:
    """Change the tenth BatchNormalization node; weights by name."""
    nodes = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    change(nodes[9], {tensor.name: tensor for tensor in model.graph.initializer})


def one_channel(model: onnx.ModelProto) -> None:
    def change(node: onnx.NodeProto, weights: dict[str, Any]) -> None:
        tensor = weights[node.input[2]]
        values = numpy_helper.to_array(tensor).copy()
        values[0] += 0.05
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    edit_batch_norm(model, change)


def epsilon(model: onnx.ModelProto) -> None:
    def change(node: onnx.NodeProto, weights: dict[str, Any]) -> None:
        next(a for a in node.attribute if a.name == "epsilon").f = 1e-3

    edit_batch_norm(model, change)


def stored_statistics_only(model: onnx.ModelProto) -> None:
    """Normalization that ignores the frame: the state's own mean instead of the mixture."""

    def change(node: onnx.NodeProto, weights: dict[str, Any]) -> None:
        mixture = next(n for n in model.graph.node if n.output[0] == node.input[3])
        node.input[3] = next(name for name in mixture.input if name.startswith("split"))

    edit_batch_norm(model, change)


def swapped_outputs(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for i, name in enumerate(node.output):
            node.output[i] = {"bn_mean_out": "bn_var_out", "bn_var_out": "bn_mean_out"}.get(name, name)


def always_moving(model: onnx.ModelProto) -> None:
    """An update of its own size, whatever is asked."""
    model.graph.initializer.append(numpy_helper.from_array(np.full(1, 0.5, np.float32), "half"))
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = "half" if name == "update" else name


@pytest.mark.parametrize("fault", [one_channel, epsilon, stored_statistics_only, swapped_outputs, always_moving])
def test_the_gate_refuses(
    bundle: Path,
    source: Exportable,
    batches: list[NDArray[np.uint8]],
    fault: Callable[[onnx.ModelProto], None],
    tmp_path: Path,
) -> None:
    model = onnx.load(bundle / "model_adaptive.onnx")
    fault(model)
    onnx.save(model, tmp_path / "model_adaptive.onnx")
    start = bundle / "bn_state.npz"
    with pytest.raises(ParityError, match="model_adaptive"):
        gate_adaptive(source.model, source.info, tmp_path / "model_adaptive.onnx", start, batches, Tolerance())


def test_a_failing_gate_leaves_no_bundle(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def plain_graphs(exportable: Exportable, size: Any, folder: Path, *rest: Any) -> Any:
        for name in ("model.onnx", "model_diag.onnx", "model_adaptive.onnx"):
            shutil.copy(bundle / name, folder)
        return read_manifest(bundle).card

    def bad_adaptive(model: Any, info: Any, folder: Path, *rest: Any, **options: Any) -> None:
        shutil.copy(bundle / "bn_state.npz", folder)
        damaged = onnx.load(bundle / "model_adaptive.onnx")
        one_channel(damaged)
        onnx.save(damaged, folder / "model_adaptive.onnx")

    monkeypatch.setattr(to_onnx, "export_graphs", plain_graphs)
    monkeypatch.setattr(to_onnx, "prove", lambda *arguments: {})
    monkeypatch.setattr(adaptive_parity, "export_adaptive", bad_adaptive)
    assert exit_code(to_onnx.main, [*COMMAND, str(tmp_path / "bundle")]) == 1
    assert "model_adaptive.onnx" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_other_precisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as error:
        parse([*COMMAND, str(tmp_path), "--precision", "int8"])
    assert error.value.code == 2


def test_a_drive_into_the_night(bundle: Path, source: Exportable) -> None:
    """By forward passes alone it is far ahead of the plain model at night; by day it finds its way back."""
    adaptive, plain = AdaptiveSegmenter.load(bundle), Segmenter.load(bundle)

    def drive(segmenter: Segmenter, domain: str, first: int = 500) -> float:
        confusion = torch.zeros(len(plain.card.classes), len(plain.card.classes))
        for seed in range(first, first + 30):
            scene = render_scene(domain, seed, SIZE)
            result = segmenter(scene.image)
            assert result.status is Status.OK
            confusion += confusion_of(result.labels, scene.label, len(confusion))
        return scores_of(confusion, source.info.class_names).miou

    assert drive(adaptive, "night") > drive(plain, "night") + 8
    drive(adaptive, "day", 700)  # the light changes at once here, which takes it some 20 frames
    assert drive(adaptive, "day") > drive(plain, "day") - 2
