"""Bundles and run folders that nobody wrote: manifests, models, states, and what a resumed run or a report reads."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfda_engine.errors import UserError
from sfda_engine.method.pseudo_labels import PseudoLabelled, load_labels, save_labels
from sfda_engine.report.figures import save_frame
from sfda_engine.report.html import write_report
from sfda_engine.run_folder.checkpoint import newest_undamaged
from sfda_engine.run_folder.resume import check_origin
from sfda_engine.run_folder.sealed import seal
from sfda_engine.run_folder.start import find_start
from sfda_engine.training.metrics import Metrics
from sfda_runtime.errors import RuntimeFault
from sfda_runtime.infer import main as infer
from sfda_runtime.manifest import read_checked, read_manifest
from sfda_runtime.sources import open_source
from sfda_runtime.state import Bounds, State, load_state, save_state
from tests.fuzz.conftest import amounts
from tests.fuzz.mutate import json_bytes, spoiled
from tests.fuzz.trial import run_cases
from tests.runtime.tiny import write_bundle

RESULT = {
    "verdict": "adapted", "verdict_basis": "not judged", "steps": 3, "seconds": 1.5, "images_per_second": 4.0,
    "peak_memory_mb": 100.0, "device": "cpu", "config": "tiny", "preset": "paper", "seed": 0, "arch": "streetnet",
    "exposure": "none", "classes": ["a", "b"], "palette": [[1, 2, 3], [4, 5, 6]], "source_sha256": "0" * 64,
    "versions": {"torch": "2"}, "warnings": ["w"], "intake": {"frames": 3},
    "miou": {"source": 10.0, "bn_warm_start": 11.0, "adapted": 12.0, "last": 12.0},
    "iou": {"source": {"a": 1.0, "b": None}, "adapted": {"a": 2.0, "b": 3.0}}, "evaluated_frames": 3,
}  # fmt: skip
LINE = {"phase": "adaptation", "step": 1, "total_step": 3, "student/total": 0.5, "lr": 0.1, "images_per_second": 3.0}
ORIGIN = {"weights_sha256": "0" * 64, "frames": 3, "mixed_precision": "no", "processes": 1}


@amounts(60, 1200)
def test_bundle(count: int, tmp_path: Path) -> None:
    """`sfda-infer verify` on a bundle of which one file is spoiled; nothing outside the bundle is read."""
    whole, hostile = write_bundle(tmp_path / "whole"), tmp_path / "hostile"
    stated = json.loads((whole / "manifest.json").read_text())
    names = ["manifest.json"] * 8 + sorted(stated["files"])

    def case(dice: random.Random) -> None:
        shutil.rmtree(hostile, ignore_errors=True)
        shutil.copytree(whole, hostile)
        path = hostile / dice.choice(names)
        manifest = path.name == "manifest.json"
        path.write_bytes(json_bytes(stated, dice) if manifest else spoiled(path.read_bytes(), dice))
        code = infer(["verify", str(hostile)])
        assert code in (0, 2, 3), code
        for name in read_manifest(hostile).files:
            assert within(hostile, name) or refused(hostile, name)

    outcomes = run_cases("bundle", case, count, refusals=(RuntimeFault,))
    assert outcomes["taken"]
    assert outcomes["IntegrityError"]


def within(folder: Path, name: str) -> bool:
    try:
        return (folder / name).resolve().is_relative_to(folder.resolve())
    except ValueError:  # a name that no file can have
        return False


def refused(folder: Path, name: str) -> bool:
    try:
        read_checked(read_manifest(folder), name)
    except RuntimeFault:
        return True
    return False


@amounts(40, 600)
def test_lone_model(count: int, tmp_path: Path) -> None:
    """onnxruntime is given spoiled bytes, without a manifest that would have told."""
    whole = (write_bundle(tmp_path / "whole") / "model.onnx").read_bytes()
    path = tmp_path / "lone" / "model.onnx"
    path.parent.mkdir()

    def case(dice: random.Random) -> None:
        path.write_bytes(spoiled(whole, dice))
        assert infer(["info", str(path)]) in (0, 2, 3)

    run_cases("lone model", case, count, refusals=())


@amounts(60, 500)
def test_state_and_arrays(count: int, tmp_path: Path) -> None:
    path, stream = tmp_path / "state.npz", tmp_path / "frames.npy"
    start = State(np.zeros(4, np.float32), np.ones(4, np.float32))
    save_state(path, start, "0" * 64)
    file = io.BytesIO()
    np.save(file, np.zeros((2, 8, 8, 3), np.uint8))
    arrays, whole = file.getvalue(), path.read_bytes()

    def case(dice: random.Random) -> None:
        if dice.random() < 0.5:
            path.write_bytes(spoiled(whole, dice, donor=arrays))
            load_state(path, start, "0" * 64, Bounds())
        else:
            stream.write_bytes(spoiled(arrays, dice))
            for frame in open_source(str(stream)).frames:
                frame.read()

    outcomes = run_cases("state", case, count, refusals=(RuntimeFault,))
    assert len(outcomes) > 1


class Frames:
    """Three target frames."""

    def __len__(self) -> int:
        return 3

    def name(self, index: int) -> str:
        return str(index)

    def image(self, index: int) -> Image.Image:
        return Image.new("RGB", (16, 16))


def write_run(folder: Path) -> None:
    """What of a run folder is read again."""
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(RESULT))
    (folder / "metrics.jsonl").write_text(f"{json.dumps(LINE)}\n" * 3)
    (folder / "config.yaml").write_text("run: {steps: 3}\n")
    (folder / "origin.json").write_text(json.dumps(ORIGIN))
    for name in ("start", "checkpoints/0000002", "checkpoints/0000004"):
        partial = folder / name.rpartition("/")[0] / ".partial"
        partial.mkdir(parents=True)
        save_labels(
            partial / "pseudo_labels.zip", PseudoLabelled(Frames(), [Image.new("L", (8, 8))] * 3, [(16, 16)] * 3)
        )
        seal(partial, folder / name)


def read_all(folder: Path) -> list[Callable[[], object]]:
    """Every reader of a run folder."""
    return [
        lambda: write_report(folder),
        lambda: check_origin(ORIGIN, folder),
        lambda: newest_undamaged(folder),
        lambda: find_start(folder),
        lambda: load_labels(folder / "start" / "pseudo_labels.zip", Frames()).label(0),
        lambda: Metrics(folder / "metrics.jsonl").rewind(2),
    ]


@amounts(80, 1200)
def test_run_folder(count: int, tmp_path: Path) -> None:
    whole, hostile = tmp_path / "whole", tmp_path / "hostile"
    write_run(whole)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())

    def case(dice: random.Random) -> None:
        shutil.rmtree(hostile, ignore_errors=True)
        shutil.copytree(whole, hostile)
        path = hostile / dice.choice(files)
        content = path.read_bytes()
        if path.suffix == ".json" and dice.random() < 0.7:
            content = json_bytes(json.loads(content), dice)
        elif path.suffix == ".jsonl" and dice.random() < 0.7:
            content = json_bytes(LINE, dice) + b"\n" + content
        else:
            content = spoiled(content, dice)
        path.write_bytes(content)
        for read in read_all(hostile):
            refusal: UserError | None = None
            try:
                read()
            except UserError as error:
                refusal = error
            assert not list(hostile.rglob(".*.partial"))
            if refusal is not None:
                raise refusal

    outcomes = run_cases("run folder", case, count, refusals=(UserError,))
    assert outcomes["taken"]
    assert outcomes["UserError"]


@pytest.mark.parametrize("name", ["../../x", "..", "a/../../../../x", "/etc/x", "x\0y", "\x1b[2J", "." * 300, ""])
def test_frame_names_stay_in_the_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    grey = np.zeros((8, 8), np.uint8)
    save_frame(folder, name, image=np.zeros((8, 8, 3), np.uint8), source=grey, adapted=grey, palette=[(1, 2, 3)])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert len(list((folder / "figures" / "frames").iterdir())) == 3
