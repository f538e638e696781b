"""Files that must not load: the first half of the fault table (notes/deploy.md, section 4a)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from sfda_runtime import IntegrityError, ModelError, Segmenter, UsageError
from sfda_runtime.card import METADATA_KEY, to_json
from sfda_runtime.infer import main
from sfda_runtime.model import open_model
from sfda_runtime.session import SessionOptions
from tests.runtime.tiny import SCALE, WEIGHTS, card, labels_of, model_bytes, picture

Damage = Callable[[bytes], bytes]


def flip(content: bytes, where: int) -> bytes:
    return content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :]


def zero_weights(content: bytes) -> bytes:
    raw = (WEIGHTS / np.float32(SCALE)).tobytes()
    assert raw in content
    return content.replace(raw, bytes(len(raw)))


DAMAGES: dict[str, Damage] = {
    "empty": lambda content: b"",
    "truncated to a tenth": lambda content: content[: len(content) // 10],
    "truncated to half": lambda content: content[: len(content) // 2],
    "truncated by one byte": lambda content: content[:-1],
    "weights zeroed": zero_weights,
    "first byte flipped": lambda content: flip(content, 0),
    "middle byte flipped": lambda content: flip(content, len(content) // 2),
    "last byte flipped": lambda content: flip(content, len(content) - 1),
    "another model": lambda content: model_bytes("labels", card(arch="other")),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_model_is_refused_by_its_hash(bundle: Path, name: str) -> None:
    path = bundle / "model.onnx"
    path.write_bytes(DAMAGES[name](path.read_bytes()))
    for load in (bundle, path):  # the folder, and the lone file with its manifest beside it
        with pytest.raises(IntegrityError, match=r"model\.onnx"):
            Segmenter.load(load)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_lone_file_is_no_model(tmp_path: Path, share: float) -> None:
    content = model_bytes()
    path = tmp_path / "lone.onnx"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=r"lone\.onnx"):
        Segmenter.load(path)


def test_an_empty_lone_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "lone.onnx").write_bytes(b"")
    with pytest.raises(ModelError):
        Segmenter.load(tmp_path / "lone.onnx")


def test_zeroed_weights_load_in_onnxruntime(tmp_path: Path) -> None:
    """Why the hash is not optional: without a manifest the file runs, and its labels are wrong."""
    path = tmp_path / "lone.onnx"
    path.write_bytes(zero_weights(model_bytes()))
    result = Segmenter.load(path)(picture(1))
    assert (result.labels != labels_of(picture(1))).any()
    with pytest.raises(IntegrityError):
        Segmenter.load(path, sha256="0" * 64)


def test_a_lone_file_works_by_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "lone.onnx"
    path.write_bytes(model_bytes())
    segmenter = Segmenter.load(path)
    assert segmenter.card == card()
    assert segmenter.model.manifest is None
    np.testing.assert_array_equal(segmenter(picture(1)).labels, labels_of(picture(1)))
    assert Segmenter.load(path, sha256=segmenter.model.sha256.upper()).card == card()


def test_a_lone_diagnostics_file_has_confidence(shared_bundle: Path) -> None:
    assert Segmenter.load(shared_bundle / "model_diag.onnx")(picture(1)).confidence is not None
    with pytest.raises(UsageError, match="graph 'labels'"):
        Segmenter.load(shared_bundle / "model.onnx", diagnostics=True)


def test_missing_external_data(tmp_path: Path) -> None:
    model = onnx.load_from_string(model_bytes())
    onnx.external_data_helper.convert_model_to_external_data(model, location="w.data", size_threshold=0)
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "w.data").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx"):
        Segmenter.load(tmp_path / "model.onnx")


def rebuilt(change: Callable[[onnx.ModelProto], Any]) -> bytes:
    model = onnx.load_from_string(model_bytes())
    change(model)
    return model.SerializeToString()


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "image"
    for node in model.graph.node:
        node.input[:] = ["image" if name == "frames" else name for name in node.input]


def float_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    model.graph.initializer.append(numpy_helper.from_array(np.array(13, np.float32), "thirteen_float"))
    for node in model.graph.node:
        node.input[:] = [
            "thirteen_float" if (node.op_type, name) == ("Equal", "thirteen") else name for name in node.input
        ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (rebuilt(rename_input), "uint8"),
        (rebuilt(float_input), "uint8"),
        (rebuilt(lambda model: helper.set_model_props(model, {})), "no description"),
        (rebuilt(lambda model: helper.set_model_props(model, {METADATA_KEY: "{"})), "description"),
        (rebuilt(lambda model: helper.set_model_props(model, {METADATA_KEY: '{"format": 2}'})), "format 2"),
        (model_bytes("labels", card("diagnostics")), "'diagnostics'"),
        (model_bytes("labels", card("who knows")), "graph"),  # type: ignore[arg-type]
        (model_bytes("labels", card("adaptive")), "'adaptive'"),
    ],
)
def test_models_of_another_contract(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        Segmenter.load(path)
    assert "other.onnx" in str(caught.value)


def test_a_fault_is_told_with_the_file_whatever_its_words_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise ModelError("lone.onnx.data is not there")

    monkeypatch.chdir(tmp_path)
    Path("lone.onnx").write_bytes(model_bytes())
    monkeypatch.setattr("sfda_runtime.model.open_session", fail)
    with pytest.raises(ModelError) as caught:
        open_model("lone.onnx", None, SessionOptions())
    assert str(caught.value).startswith("lone.onnx: ")


def test_paths_that_are_nothing(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        Segmenter.load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no model_logits\.onnx"):
        open_model(bundle, "logits", SessionOptions())


def test_a_bundle_without_manifest_is_not_complete(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()
    with pytest.raises(IntegrityError, match=r"no manifest\.json"):
        Segmenter.load(bundle)


def test_a_file_that_the_manifest_does_not_list(bundle: Path) -> None:
    (bundle / "mine.onnx").write_bytes(model_bytes())
    with pytest.raises(IntegrityError, match="not listed"):
        Segmenter.load(bundle / "mine.onnx")


def change_manifest(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((bundle / "manifest.json").read_text())
    change(content)
    (bundle / "manifest.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(format=2),
        lambda m: m.pop("files"),
        lambda m: m.update(files=[]),
        lambda m: m["files"].update({"model.onnx": {"sha256": "0"}}),
        lambda m: m.update(golden=[{}]),
    ],
)
def test_a_manifest_of_another_kind(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    change_manifest(bundle, change)
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        Segmenter.load(bundle)


def test_a_manifest_that_is_no_json(bundle: Path) -> None:
    (bundle / "manifest.json").write_text('{"format": 1')
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        Segmenter.load(bundle)


def test_a_manifest_cannot_name_files_outside(bundle: Path) -> None:
    from sfda_runtime.manifest import read_checked, read_manifest

    (bundle.parent / "secret").write_bytes(b"1")
    (bundle / "link").symlink_to(bundle.parent / "secret")
    entry = {"sha256": "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b", "bytes": 1}
    change_manifest(bundle, lambda m: m["files"].update({"../secret": entry, "link": entry}))
    manifest = read_manifest(bundle)
    for name in ("../secret", "link"):
        with pytest.raises(IntegrityError, match=re.escape(name)):
            read_checked(manifest, name)


def test_the_card_survives_json() -> None:
    from sfda_runtime.card import from_json

    assert from_json(to_json(card()), "here") == card()


@pytest.mark.parametrize("mark", ["result.json", "adapted.safetensors"])
def test_a_run_folder_is_no_bundle(bundle: Path, tmp_path: Path, mark: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in (mark, "manifest.json"):  # a run has a manifest of its own
        (run / name).write_text("{}")
    for command in ("run", "verify", "info"):
        assert main([command, str(run), *(["x.png", "--output", "y"] if command == "run" else [])]) == 2
        told = capsys.readouterr().err
        assert f"sfda export {run} --output" in told
    bundle.rename(run / "bundle")
    with pytest.raises(UsageError, match="run/bundle"):
        Segmenter.load(run)
    Segmenter.load(run / "bundle")


def test_a_weights_file_is_no_exported_model(tmp_path: Path) -> None:
    (tmp_path / "adapted.safetensors").write_bytes(b"weights")
    with pytest.raises(UsageError, match=r"adapted\.safetensors.*\.onnx"):
        Segmenter.load(tmp_path / "adapted.safetensors")
    (tmp_path / "lone.ONNX").write_bytes(model_bytes())
    Segmenter.load(tmp_path / "lone.ONNX")
