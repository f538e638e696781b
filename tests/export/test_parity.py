"""The gate passes a faithful file and refuses each fault that exports are known to have."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from sfda_engine.data.classes import CLASS_SETS
from sfda_engine.data.datasets import SceneLabelled
from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.models.norms import batch_norm_layers
from sfda_engine.models.segnet import SegNet
from sfda_engine.models.streetnet import StreetNet
from sfda_engine.models.weights import WeightsInfo, sha256_of
from sfda_export.frames import gate_batches
from sfda_export.graph import OUTPUTS, DeployGraph
from sfda_export.onnx_file import export_onnx
from sfda_export.parity import (
    Figures,
    ParityError,
    Tolerance,
    confusion_of,
    float32_tolerance,
    gate,
    measure,
    violations,
)
from sfda_export.reference import Frames, Reference, engine_logits
from sfda_export.run import Exportable, describe, open_run
from sfda_export.shipped import check_read_out, miou_difference, softmax_levels
from tests.export.faults import FAULTS, align_corners, with_fault
from tests.export.user_net import small_network

SIZE = ImageSize(128, 96)
GOOD = Figures(
    noise_p50=1.0,
    noise_p90=1.0,
    noise_p999=1.0,
    noise_worst=1.0,
    error_p999=1e-6,
    agreement=100.0,
    agreement_loss=0.0,
    agreement_margin_01=100.0,
    agreement_margin_1=100.0,
    miou=100.0,
)


@pytest.fixture(scope="module")
def exportable(run_folder: Path) -> Exportable:
    return open_run(str(run_folder))


@pytest.fixture(scope="module")
def references(exportable: Exportable) -> tuple[Reference, Reference]:
    model, info = exportable.model, exportable.info
    return engine_logits(model, info, torch.float32), engine_logits(model, info, torch.float64)


@pytest.fixture(scope="module")
def images() -> SceneLabelled:
    return SceneLabelled("night", purpose="evaluate", size=SIZE, frames=3)


@pytest.fixture(scope="module")
def batches(images: SceneLabelled) -> list[Frames]:
    return gate_batches([images.image(0), images.image(1)], None)


def test_the_exported_file_passes(bundle: Path, references: tuple[Reference, Reference], images: SceneLabelled) -> None:
    batches = gate_batches([images.image(0), images.image(1)], (95, 71))
    figures = gate(*references, bundle / "model_logits.onnx", batches, Tolerance())
    assert 0.2 < figures.noise_p50 < 3
    assert figures.agreement_margin_01 == 100


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_file_is_refused(
    name: str, bundle: Path, references: tuple[Reference, Reference], batches: list[Frames], tmp_path: Path
) -> None:
    path = with_fault(bundle / "model_logits.onnx", FAULTS[name], tmp_path)
    with pytest.raises(ParityError, match=r"noise_p50 is .* above 3"):
        gate(*references, path, batches, Tolerance())
    assert measure(*references, path, batches).noise_p50 > 1000


def change_epsilon(model: nn.Module) -> None:
    for layer in batch_norm_layers(model).values():
        layer.eps = 1e-3


def change_one_channel(model: nn.Module) -> None:
    mean = model.get_buffer("low.0.1.running_mean")
    mean[3] += 0.05


@pytest.mark.parametrize("fault", [change_epsilon, change_one_channel])
def test_other_batch_norm_statistics_are_refused(
    fault: Callable[[nn.Module], None],
    exportable: Exportable,
    references: tuple[Reference, Reference],
    batches: list[Frames],
    tmp_path: Path,
) -> None:
    model = copy.deepcopy(exportable.model)
    fault(model)
    info = exportable.info
    export_onnx(
        DeployGraph(model, info.normalization, info.exposure, "logits"),
        (torch.zeros(1, 96, 128, 3, dtype=torch.uint8),),
        tmp_path / "faulty.onnx",
        input_names=["frames"],
        output_names=OUTPUTS["logits"],
        dynamic_shapes=None,
        card=describe(exportable, SIZE, fixed=True),
    )
    with pytest.raises(ParityError, match="noise_p50"):
        gate(*references, tmp_path / "faulty.onnx", batches, Tolerance())


def test_a_file_that_cannot_run_is_refused(
    bundle: Path, references: tuple[Reference, Reference], tmp_path: Path
) -> None:
    path = with_fault(bundle / "model_logits.onnx", FAULTS["one_pixel"], tmp_path)  # it has 96 rows built in
    with pytest.raises(ParityError, match=r"1 frames of 40x40 .*--fixed WxH"):
        measure(*references, path, [np.zeros((1, 40, 40, 3), np.uint8)])


def test_a_network_that_cannot_run_in_float64_is_the_users_to_change() -> None:
    info = WeightsInfo(arch="tests.export.user_net:Float32", num_classes=4)
    exact = engine_logits(small_network("Float32"), info, torch.float64)
    with pytest.raises(UserError, match=r"torch.float64"):
        exact(np.zeros((1, 32, 48, 3), np.uint8))


def test_labels_that_do_not_follow_from_the_logits_are_refused(
    bundle: Path, batches: list[Frames], tmp_path: Path
) -> None:
    for name in ("model_logits.onnx", "model_diag.onnx"):
        shutil.copy(bundle / name, tmp_path)
    with_fault(bundle / "model.onnx", align_corners, tmp_path)
    with pytest.raises(ParityError, match=r"labels of .* % of pixels$"):
        check_read_out(tmp_path, batches)


def test_a_diagnostics_file_of_another_model_is_refused(bundle: Path, batches: list[Frames], tmp_path: Path) -> None:
    for name in ("model_logits.onnx", "model.onnx"):
        shutil.copy(bundle / name, tmp_path)
    with_fault(bundle / "model_diag.onnx", FAULTS["wrong_scale"], tmp_path)
    with pytest.raises(ParityError, match=r"confidence of .*entropy of"):
        check_read_out(tmp_path, batches)


@pytest.mark.parametrize("fault", ["truncated", "flipped byte"])
def test_a_damaged_file_has_another_hash(fault: str, bundle: Path, tmp_path: Path) -> None:
    content = bytearray((bundle / "model.onnx").read_bytes())
    if fault == "truncated":
        del content[-100:]
    else:
        content[len(content) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(content)
    stated = json.loads((bundle / "manifest.json").read_text())["files"]["model.onnx"]["sha256"]
    assert sha256_of(bundle / "model.onnx") == stated
    assert sha256_of(tmp_path / "model.onnx") != stated
    if fault == "truncated":
        with pytest.raises(Exception, match=r"Protobuf|ParseFromString|parse"):
            onnxruntime.InferenceSession(tmp_path / "model.onnx")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Tolerance)])
def test_every_limit_works_and_nan_is_out_of_it(field: str) -> None:
    tolerance = dataclasses.replace(Tolerance(), error_p999=1e-2, miou=97.0)
    assert violations(GOOD, tolerance) == []
    worse = {"agreement_margin_01": 50.0, "agreement_margin_1": 50.0, "miou": 50.0}.get(field, 1e3)
    for value in (worse, float("nan")):
        (failure,) = violations(dataclasses.replace(GOOD, **{field: value}), tolerance)
        assert failure.startswith(f"{field} is ")
    assert (
        violations(dataclasses.replace(GOOD, **{field: worse}), dataclasses.replace(tolerance, **{field: None})) == []
    )


def test_index_pooling_is_not_gated_on_its_largest_errors() -> None:
    assert float32_tolerance(SegNet(2)).noise_p999 is None
    assert float32_tolerance(SegNet(2)).noise_p90 == 3
    assert float32_tolerance(StreetNet(2)) == Tolerance()


def test_a_frame_that_is_marked_as_ignored_counts_as_wrong() -> None:
    truth = np.array([[[0, 1, 2, 255]]])
    assert confusion_of(np.full((1, 1, 4), 255, np.uint8), truth, 3).tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert confusion_of(truth.astype(np.uint8), truth, 3).tolist() == np.eye(3).tolist()


def test_softmax_levels() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.25])).reshape(1, 3, 1, 1)
    confidence, entropy = softmax_levels(logits)
    assert (confidence.item(), entropy.item()) == (128, round(255 * 1.5 * np.log(2) / np.log(3)))


def test_miou_of_both_sides_is_reported(
    bundle: Path, references: tuple[Reference, Reference], images: SceneLabelled
) -> None:
    names = CLASS_SETS["scenes"].names
    report = miou_difference(references[0], bundle / "model.onnx", images, SIZE, names)
    assert report["frames"] == 3
    assert 20 < report["onnx"] < 100
    assert abs(report["difference"]) < 0.1

    def upside_down(frames: Frames) -> np.ndarray:
        return references[0](frames)[:, :, ::-1]

    assert miou_difference(upside_down, bundle / "model.onnx", images, SIZE, names)["difference"] > 5
