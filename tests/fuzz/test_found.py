"""What the fuzzing and the review for it found, one small case each."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfda_engine.config.keys import nearest
from sfda_engine.config.loader import load_config
from sfda_engine.config.yaml_file import LARGEST
from sfda_engine.data.images import MAX_PIXELS, ends_well
from sfda_engine.errors import UserError
from sfda_engine.method.pseudo_labels import load_labels
from sfda_engine.models.weights import WeightsInfo, parse_info
from sfda_engine.report.reading import read_run
from sfda_engine.report.summary import GRAY, legend
from sfda_engine.run_folder import create
from sfda_engine.run_folder.sealed import damage
from sfda_engine.training.metrics import Metrics
from sfda_runtime import card
from sfda_runtime.errors import IntegrityError, ModelError, UsageError
from sfda_runtime.manifest import read_checked, read_manifest
from sfda_runtime.sources import open_source
from sfda_runtime.state import read_start
from tests.fuzz.test_manifests import Frames, write_run
from tests.runtime.tiny import write_bundle

DEEP = "[" * 100_000
LAUGHS = "l0: &l0 x\n" + "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"run: {DEEP}", "nested too deeply"),
        ("target: {size: '" + DEEP[:2000] + "'}", "target.size: expected"),
        ("? &a [*a]\n: 1", "name of a key"),
        (LAUGHS, "unknown key 'l0'"),
        (f"run: {{steps: {'9' * 5000}}}", "run.steps: expected"),
        (f"run: {{steps: 1{'0' * 400}}}", "run.steps is 1000"),
        (f"target: {{size: [{'64, ' * 2000}64]}}", "target.size: expected"),
        (f"evaluate: {{dataset: scenes, split: '{'9' * 5000}'}}", "evaluate.split is '999"),
        ("target: {size: [1000000000, 32]}", "at most 16384"),
        ("#" * (LARGEST + 1), "bytes: "),
        (f"? {'x' * 10_000}\n: 1", "unknown key 'xxx"),
    ],
)
def test_a_configuration(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=reason) as caught:
        load_config(tmp_path / "x.yaml")
    assert len(str(caught.value)) < 1000


def test_the_nearest_of_a_long_name() -> None:
    assert nearest("method.lr" + "r" * 10**6)  # hours, where all of it is compared


def test_a_configuration_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.yaml").touch()

    def refuses(*arguments: object, **options: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuses)
    with pytest.raises(UserError, match="Permission denied"):
        load_config(tmp_path / "x.yaml")


def test_deep_json(tmp_path: Path) -> None:
    write_run(tmp_path / "run")
    (tmp_path / "manifest.json").write_text(DEEP)
    (tmp_path / "run" / "result.json").write_text(DEEP)
    assert (damage(tmp_path) or "").startswith("manifest.json ")
    with pytest.raises(IntegrityError):
        read_manifest(tmp_path)
    with pytest.raises(ModelError):
        card.from_json(DEEP, "x")
    with pytest.raises(UserError, match="not valid JSON"):
        read_run(tmp_path / "run")


def test_the_end_of_a_jpeg_by_either_suffix(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpeg")
    assert ends_well(tmp_path / "x.jpeg")


def test_names_of_frames_hold_no_way_up(tmp_path: Path) -> None:
    for folder in ("in/a", "in/b", "other"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "x.png")
    names = [frame.name for frame in open_source(f"{tmp_path}/in/*/../../other/*.png").frames]
    assert not any(".." in name for name in names)


@pytest.mark.parametrize("line", ["null", "{}", "{", DEEP, '{"total_step": "1"}', '{"total_step": 1, "x": NaN}'])
def test_a_line_of_metrics_that_no_run_wrote(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(UserError, match="no run has written"):
        Metrics(path).rewind(5)
    assert path.read_text() == f"{line}\n"


@pytest.mark.parametrize("sizes", [[[16, 16]] * 2, [[16, 10**9]] * 3, [[0, 16]] * 3, [16, 16, 16], None])
def test_pseudo_labels_of_other_frames(sizes: object, tmp_path: Path) -> None:
    path = tmp_path / "pseudo_labels.zip"
    write_run(tmp_path / "run")
    with zipfile.ZipFile(tmp_path / "run" / "start" / "pseudo_labels.zip") as whole, zipfile.ZipFile(path, "w") as file:
        for name in whole.namelist():
            file.writestr(name, json.dumps(sizes) if name == "sizes.json" else whole.read(name))
    with pytest.raises(UserError, match="is damaged"):
        load_labels(path, Frames())


def test_a_bomb_among_pseudo_labels(tmp_path: Path) -> None:
    path = tmp_path / "pseudo_labels.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("sizes.json", "w") as entry:
        for _ in range(MAX_PIXELS // 2**20 + 1):
            entry.write(bytes(2**20))
    with pytest.raises(UserError, match="larger than"):
        load_labels(path, Frames())


def test_arrays_whose_header_is_no_source(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((1, 2, 2, 3), np.uint8))
    content = path.read_bytes().replace(b"{", b"((", 1)
    path.write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read"):
        open_source(str(path))
    with pytest.raises(ModelError):
        read_start(content, "x")


def test_a_folder_made_in_vain_goes_again(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for folder in (kept, tmp_path / "made"):
        with pytest.raises(UserError), create.new_folder(folder):
            raise UserError("bad labels")
    assert os.listdir(tmp_path) == ["kept"]


@pytest.mark.parametrize(
    "change",
    [
        {"arch": 3}, {"arch": {}}, {"arch": "x" * 5000}, {"num_classes": True}, {"num_classes": "3"},
        {"num_classes": 10**9}, {"num_classes": float("nan")}, {"class_names": [1, 2, 3]}, {"class_names": ["a"]},
        {"palette": [[1, 2, 300]] * 3}, {"palette": [[1, 2]] * 3}, {"exposure": "x"}, {"feature_layer": 3},
        {"size": [0, 5]}, {"size": "ab"}, {"size": [1.5, 2]},
    ],
)  # fmt: skip
def test_a_description_of_weights(change: dict[str, object]) -> None:
    info = asdict(WeightsInfo(arch="streetnet", num_classes=3, class_names=("a", "b", "c")))
    assert parse_info(Path("x"), json.dumps(info)).num_classes == 3
    with pytest.raises(UserError, match="description"):
        parse_info(Path("x"), json.dumps(info | change))


@pytest.mark.parametrize(
    "change", [{"std": [0, 1, 1]}, {"mean": [float("nan"), 0, 0]}, {"std": [1, 1]}, {"mean": "abc"}]
)
def test_a_normalization_of_weights(change: dict[str, object]) -> None:
    info = asdict(WeightsInfo(arch="streetnet", num_classes=3))
    info["normalization"] |= change
    with pytest.raises(UserError, match=r"normalization|its description"):
        parse_info(Path("x"), json.dumps(info))


def test_a_name_in_a_manifest_that_no_file_can_have(tmp_path: Path) -> None:
    stated = write_bundle(tmp_path / "bundle") / "manifest.json"
    for name in ("\ud800", "a\0b", "../bundle2/x"):
        stated.write_text(json.dumps(json.loads(stated.read_text()) | {"files": {name: {"sha256": "0", "bytes": 1}}}))
        with pytest.raises(IntegrityError, match="outside the bundle"):
            read_checked(read_manifest(stated.parent), name)


@pytest.mark.parametrize("palette", [[[1, 2]], [[1, 2, [3]]], [5], ["red"], [[-1, 0, 0]]])
def test_a_palette_without_colors(palette: list[object]) -> None:
    assert legend({"classes": ["a"], "palette": palette}) == [("a", GRAY)]
