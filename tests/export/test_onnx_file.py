"""One ONNX file: opset, names, metadata, nothing of this machine, the same bytes each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from sfda_engine.errors import UserError
from sfda_engine.models.preprocess import Normalization
from sfda_export.graph import DeployGraph
from sfda_export.onnx_file import TRACES, export_onnx
from sfda_runtime.card import METADATA_KEY, Card, from_json
from tests.export.user_net import small_card, small_network

ROOT = Path(__file__).parents[2]
DYNAMIC = ({0: "batch", 1: "height", 2: "width"},)


def export_small(path: Path, factory: str = "Net", *, opset: int = 20, fixed: bool = False) -> Card:
    graph = DeployGraph(small_network(factory), Normalization(), "none", "labels")
    example = torch.zeros(1 if fixed else 2, 32, 48, 3, dtype=torch.uint8)
    return export_onnx(
        graph,
        (example,),
        path,
        input_names=["frames"],
        output_names=["labels"],
        dynamic_shapes=None if fixed else DYNAMIC,
        card=small_card(),
        opset=opset,
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    export_small(path)
    return path


@pytest.mark.parametrize("opset", [18, 19, 21, 22])
def test_the_opset_is_the_one_asked_for(tmp_path: Path, opset: int) -> None:
    card = export_small(tmp_path / "net.onnx", opset=opset)
    model = onnx.load(tmp_path / "net.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert (card.opset, card.ir) == (opset, model.ir_version)
    assert (
        from_json(
            onnxruntime.InferenceSession(tmp_path / "net.onnx").get_modelmeta().custom_metadata_map[METADATA_KEY], ""
        )
        == card
    )


@pytest.mark.parametrize("opset", [17, 23])
def test_other_opsets_are_refused(tmp_path: Path, opset: int) -> None:
    with pytest.raises(UserError, match="18 to 22"):
        export_onnx(
            nn.Identity(),
            (),
            tmp_path / "x",
            input_names=[],
            output_names=[],
            dynamic_shapes=None,
            card=small_card(),
            opset=opset,
        )


def test_the_default_opset(exported: Path) -> None:
    assert [(entry.domain, entry.version) for entry in onnx.load(exported).opset_import] == [("", 20)]


def test_nothing_of_this_machine_is_in_the_file(exported: Path) -> None:
    content = exported.read_bytes()
    for trace in (b".py", b"stack_trace", b"site-packages", b"pkg.torch", str(ROOT).encode(), b"class_hierarchy"):
        assert trace not in content
    model = onnx.load(exported)
    assert [entry.key for entry in model.metadata_props] == [METADATA_KEY]
    assert not model.functions
    assert not any(getattr(node, name) for node in model.graph.node for name in TRACES if name != "value_info")
    assert sorted(path.name for path in exported.parent.iterdir()) == ["net.onnx"]


def test_frames_of_any_number_and_size(exported: Path) -> None:
    session = onnxruntime.InferenceSession(exported)
    (entry,), (labels,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.type, entry.shape) == ("frames", "tensor(uint8)", ["batch", "height", "width", 3])
    assert (labels.name, labels.type, labels.shape) == ("labels", "tensor(uint8)", ["batch", "height", "width"])
    for shape in ((1, 32, 48), (3, 33, 47), (2, 64, 32)):
        frames = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        graph = DeployGraph(small_network(), Normalization(), "none", "labels")
        with torch.no_grad():
            expected = graph(torch.from_numpy(frames))[0].numpy()
        assert np.array_equal(session.run(None, {"frames": frames})[0], expected)


def test_onnxruntime_keeps_the_test_for_logits_that_are_not_finite(exported: Path, tmp_path: Path) -> None:
    export_small(tmp_path / "net.onnx", "Overflowing")
    frames = np.random.default_rng(0).integers(0, 200, (3, 32, 48, 3), dtype=np.uint8)
    frames[1, 0, 0] = 255
    labels, expected = (
        onnxruntime.InferenceSession(path).run(None, {"frames": frames})[0]
        for path in (tmp_path / "net.onnx", exported)
    )
    assert (labels[1] == 255).all()
    assert np.array_equal(labels[[0, 2]], expected[[0, 2]])


def test_a_fixed_graph_takes_its_own_size_only(tmp_path: Path) -> None:
    export_small(tmp_path / "net.onnx", fixed=True)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    assert session.get_inputs()[0].shape == [1, 32, 48, 3]
    with pytest.raises(Exception, match="Got: 2 Expected: 1"):
        session.run(None, {"frames": np.zeros((2, 32, 48, 3), np.uint8)})


def test_a_network_that_branches_on_its_data_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data-dependent.*--fixed WxH"):
        export_small(tmp_path / "net.onnx", "Branching")
    assert not list(tmp_path.iterdir())


def test_state_inputs_of_other_shapes(tmp_path: Path) -> None:
    class WithState(nn.Module):
        def forward(self, frames: Tensor, mean: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
            levels = frames.float().mean((1, 2))
            return levels, mean + rate * (levels.mean(0) - mean)

    export_onnx(
        WithState(),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(3), torch.zeros(1)),
        tmp_path / "state.onnx",
        input_names=["frames", "mean", "rate"],
        output_names=["levels", "mean_out"],
        dynamic_shapes=(DYNAMIC[0], None, None),
        card=small_card(),
    )
    session = onnxruntime.InferenceSession(tmp_path / "state.onnx")
    feed = {
        "frames": np.full((1, 4, 6, 3), 8, np.uint8),
        "mean": np.zeros(3, np.float32),
        "rate": np.full(1, 0.5, np.float32),
    }
    levels, mean = session.run(None, feed)
    assert levels.tolist() == [[8, 8, 8]]
    assert mean.tolist() == [4, 4, 4]


def test_a_size_that_the_exporter_fixes_is_refused(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, frames: Tensor) -> Tensor:
            return frames.float().sum((1, 2, 3)) * (1 if frames.shape[1] == 8 else 2)

    with pytest.raises(UserError, match="--fixed"):
        export_onnx(
            Fixed(),
            (torch.zeros(2, 8, 8, 3, dtype=torch.uint8),),
            tmp_path / "x.onnx",
            input_names=["frames"],
            output_names=["sum"],
            dynamic_shapes=DYNAMIC,
            card=small_card(),
        )
    assert not list(tmp_path.iterdir())
