"""`python -m sfda_export.to_onnx`: the bundle it leaves, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from torch import Tensor

from sfda_engine.config.loader import load_config
from sfda_engine.data.datasets import open_target
from sfda_engine.exit_codes import exit_code
from sfda_export import graph, to_onnx
from sfda_runtime.card import METADATA_KEY, from_json
from tests.export.user_net import save_small

ROOT = Path(__file__).parents[2]
FILES = {"model.onnx": "labels", "model_diag.onnx": "diagnostics", "model_logits.onnx": "logits"}


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> dict:
    content = json.loads((bundle / "manifest.json").read_text(), parse_constant=pytest.fail)
    assert isinstance(content, dict)
    return content


def export_small(weights: Path, output: Path, *options: str) -> int:
    return exit_code(to_onnx.main, [str(weights), "--output", str(output), "--frames", "scenes:day", *options])


def test_the_manifest_covers_every_file(bundle: Path, manifest: dict) -> None:
    found = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    golden = {f"golden/{i}{end}.png" for i in (0, 1) for end in ("", "_labels")}
    assert manifest["format"] == 1
    assert set(found) == {*manifest["files"], "manifest.json"} == {*FILES, *golden, "manifest.json"}
    for name, entry in manifest["files"].items():
        content = found[name].read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_every_file_describes_itself(bundle: Path, manifest: dict) -> None:
    assert manifest["card"] == json.loads(_metadata(bundle / "model.onnx"))
    for name, kind in FILES.items():
        card = from_json(_metadata(bundle / name), name)
        assert json.loads(_metadata(bundle / name)) == manifest["card"] | {"graph": kind}
        assert (card.opset, card.size, card.classes[0], card.palette[0]) == (20, (128, 96), "road", (128, 64, 128))
        assert ROOT.as_posix().encode() not in (bundle / name).read_bytes()


def _metadata(path: Path) -> str:
    metadata = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert list(metadata) == [METADATA_KEY]
    return str(metadata[METADATA_KEY])


def test_golden_frames_are_the_targets_and_their_labels_the_models(bundle: Path, manifest: dict) -> None:
    target = open_target(load_config("demo", ["--target.frames", "2"]).target)
    session = onnxruntime.InferenceSession(bundle / "model.onnx")
    for index, entry in enumerate(manifest["golden"]):
        frame, labels = Image.open(bundle / entry["frame"]), Image.open(bundle / entry["labels"])
        assert (frame.mode, frame.size, labels.mode) == ("RGB", (128, 96), "P")
        assert frame.tobytes() == target.image(index).tobytes()
        assert labels.getpalette()[:6] == [*manifest["card"]["palette"][0], *manifest["card"]["palette"][1]]
        expected = session.run(None, {"frames": np.asarray(frame)[None]})[0][0]
        assert np.array_equal(np.asarray(labels), expected)


def test_the_parity_card(manifest: dict) -> None:
    parity = manifest["parity"]
    assert parity["logits"]["figures"]["noise_p90"] <= parity["logits"]["limits"]["noise_p90"] == 3
    assert parity["read_out"]["labels"] == 100
    assert len(parity["frames"]["batches"]) == 12
    assert parity["miou"]["frames"] == 4
    assert abs(parity["miou"]["difference"]) < 0.1
    assert parity["provider"] == "CPUExecutionProvider"
    assert manifest["calibration"] is None


def test_a_users_own_network_by_the_command_in_two_processes(
    tmp_path: Path, environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    weights = save_small(tmp_path / "net.safetensors")
    assert export_small(weights, tmp_path / "here") == 0
    assert "noise ratio" in capsys.readouterr().err
    command = [sys.executable, "-m", "sfda_export.to_onnx", weights, "--output", tmp_path / "there"]
    subprocess.run([*command, "--frames", "scenes:day"], check=True, cwd=ROOT, env=environment, capture_output=True)
    for name in ("model.onnx", "model_diag.onnx"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == [
        "golden",
        "manifest.json",
        "model.onnx",
        "model_diag.onnx",
    ]


def test_a_failing_gate_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong_scale(frames: Tensor) -> Tensor:
        return frames.permute(0, 3, 1, 2).float() / 256

    monkeypatch.setattr(graph, "to_images", wrong_scale)
    weights = save_small(tmp_path / "net.safetensors")
    assert export_small(weights, tmp_path / "bundle") == 1
    assert "noise_p50 is" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_network_for_one_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = save_small(tmp_path / "net.safetensors", "OneSize")
    assert export_small(weights, tmp_path / "bundle") == 2
    assert "--fixed WxH" in capsys.readouterr().err
    assert export_small(weights, tmp_path / "bundle", "--fixed", "48x32") == 0
    card = from_json(_metadata(tmp_path / "bundle" / "model.onnx"), "")
    assert (card.fixed, card.size) == (True, (48, 32))
    session = onnxruntime.InferenceSession(tmp_path / "bundle" / "model.onnx")
    assert session.get_inputs()[0].shape == [1, 32, 48, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "16x16"], "too small"),
        (["--frames", "nowhere"], "nowhere"),
        (["--frames", "scenes:dawn"], "scene"),
        (["--labels", "nowhere"], "nowhere"),
        (["--model.arch", "streetnet"], "model.arch is streetnet"),
        (["--model.weights", "x"], "RUN"),
        (["--num-classes", "9"], "model.num_classes is 9"),
    ],
)
def test_mistakes(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = save_small(tmp_path / "net.safetensors")
    assert export_small(weights, tmp_path / "bundle", *options) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "exporting" not in errors  # found out before the work began
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--opset", "17"], "invalid choice"),
        (["--size", "large"], "no size"),
        (["--size", "64x64", "--fixed", "64x64"], "twice"),
        (["--precison", "fp32"], "unrecognized"),
    ],
)
def test_mistakes_that_argparse_finds(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        exit_code(to_onnx.main, ["x.safetensors", "--output", "bundle", *options])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_run_whose_data_are_elsewhere(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = tmp_path / "run"
    moved.mkdir()
    for path in run_folder.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    config = (moved / "config.yaml").read_text().replace("dataset: scenes", "dataset: folder")
    (moved / "config.yaml").write_text(config.replace("root: null", "root: /nowhere"))
    assert exit_code(to_onnx.main, [str(moved), "--output", str(tmp_path / "bundle")]) == 2
    assert "--frames DIR" in capsys.readouterr().err
