"""`sfda inspect`: what it prints, its exit codes, its JSON; no label is opened."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from sfda_engine.cli import main as sfda
from sfda_engine.config.schema import ModelConfig
from sfda_engine.data.datasets import SceneImages
from sfda_engine.data.images import ImageSize
from sfda_engine.exit_codes import exit_code
from sfda_engine.inspect import config_options, main
from sfda_engine.inspection.examination import examine
from sfda_engine.inspection.findings import Finding, Severity
from sfda_engine.inspection.table import print_intake
from sfda_engine.models import build_segmenter
from sfda_engine.models.weights import WeightsInfo, save_weights
from sfda_engine.pipelines.networks import load_segmenter

# settings that keep the two measured steps small
SMALL = ["--target.size", "[32, 32]", "--target.batch_size", "2", "--method.synthetic_size", "[16, 16]"]

WATCH = """
import os, sys
def watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and arguments and isinstance(arguments[0], (str, bytes)):
        path = os.fsdecode(arguments[0])
        if "labels" in path.split(os.sep):
            print("opened", path, file=sys.stderr)
sys.addaudithook(watch)
open(sys.argv[1] + "/labels/" + "night_0.png", "rb").close()  # the hook does see it
from sfda_engine.inspect import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def options(source_weights: Path, night_frames: Path) -> list[str]:
    return [str(source_weights), "--frames", str(night_frames), *SMALL]


def test_tables_tell_what_was_measured_and_nothing_is_written(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    assert exit_code(main, options) == 0
    printed = capsys.readouterr().out
    for words in (
        "sfda_toy:segmenter, 2 BatchNorm layers",
        "9: road, sidewalk",
        "RGB, 0-1, mean 0.485, 0.456, 0.406",
        "6 of 6 read, 6 used; 32x32 (6)",
        "distance from source",
        "as stated",
        "expected time",
        "MiB peak (measured on 2 steps on this machine)",
    ):
        assert words in printed
    assert list(tmp_path.iterdir()) == []


def test_warnings_without_a_refusal_are_counted_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    model, info = load_segmenter(ModelConfig(weights="package:demo_source"))
    images = SceneImages("night", purpose="target", size=(128, 96), frames=2)
    intake = examine(model.eval(), info, images, size=ImageSize(128, 96), exposure="none")
    endings: dict[tuple[Severity, ...], str] = {
        (): "source model and frames fit",
        ("warn", "note"): "usable, with 1 warning",
        ("warn", "warn"): "usable, with 2 warnings",
        ("warn", "refuse"): "refuse what: why; remedy",
    }
    for severities, ending in endings.items():
        found = tuple(Finding(severity, "what", "why", "remedy") for severity in severities)
        print_intake(dataclasses.replace(intake, findings=found), info, Console(width=200))
        assert capsys.readouterr().out.splitlines()[-1] == ending


def test_json_is_all_of_stdout(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(sfda, ["inspect", *options, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["fits"] is True
    assert content["batch_norm_layers"] == 2
    assert content["frames"] == {
        "total": 6,
        "read": 6,
        "used": 6,
        "sizes": {"32x32": 6},
        "unreadable": [],
        "constant": [],
        "duplicates": [],
    }
    assert content["distance"].keys() == {"none", "gamma"}
    assert content["conventions"]["rgb"].keys() == content["conventions"]["bgr"].keys()
    assert min(content["conventions"]["rgb"].values()) == content["conventions"]["rgb"]["as stated"]
    assert content["expected"]["seconds_per_step"] > 0
    assert content["expected"]["basis"].startswith("measured")


def test_damaged_frames_are_reported_not_fatal(
    options: list[str], night_frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(night_frames / "images", tmp_path / "images")
    (tmp_path / "images" / "night_3.png").write_bytes(b"damaged")
    options[2] = str(tmp_path)
    assert exit_code(main, [*options, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["frames"]["used"] == 5
    assert content["findings"][0]["severity"] == "warn"
    assert "night_3.png" in content["findings"][0]["why"]


def test_untrained_source_is_refused_without_a_measured_step(
    night_frames: Path, tmp_path: Path, toy_module: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = WeightsInfo(arch="sfda_toy:segmenter", num_classes=9, feature_layer="encoder")
    save_weights(tmp_path / "w.safetensors", build_segmenter(info.arch, 9, "encoder"), info)
    argv = [str(tmp_path / "w.safetensors"), "--frames", str(night_frames), *SMALL]
    assert exit_code(main, argv) == 2
    printed = capsys.readouterr().out
    assert "refuse" in printed
    assert "never trained" in printed
    assert "expected time" not in printed


def empty_folder(folder: Path, weights: Path) -> list[str]:
    return [str(weights), "--frames", str(folder)]


def missing_folder(folder: Path, weights: Path) -> list[str]:
    return [str(weights), f"--frames={folder / 'nowhere'}"]


def missing_weights(folder: Path, weights: Path) -> list[str]:
    return [str(folder / "nowhere.safetensors"), "--frames", str(folder)]


def other_class_set(folder: Path, weights: Path) -> list[str]:
    return [str(weights), "--frames", str(folder), "--model.classes", "camvid"]


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (empty_folder, "no JPEG or PNG"),
        (missing_folder, "does not exist"),
        (missing_weights, "there is no file"),
        (other_class_set, "camvid has 11"),
    ],
)
def test_mistake_is_one_message_and_code_two(
    mistake: Callable[[Path, Path], list[str]],
    words: str,
    source_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_code(main, [*mistake(tmp_path, source_weights), *SMALL]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert words in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")


def test_no_label_is_opened(
    options: list[str], night_frames: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("-c", WATCH, str(night_frames), *options)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert [line for line in errors.splitlines() if line.startswith("opened")] == [
        f"opened {night_frames}/labels/night_0.png"
    ]


def test_weights_and_frames_are_keys_of_the_configuration() -> None:
    folder = ["--target.dataset", "folder", "--target.split", "null"]
    assert config_options(["w.pt", "--frames", "d"]) == ["--model.weights", "w.pt", *folder, "--target.root", "d"]
    assert config_options(["--frames=d"]) == [*folder, "--target.root=d"]
    assert config_options(["--config", "demo"]) == ["--config", "demo"]
    assert config_options([]) == []


def test_help_explains_itself_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("usage: sfda inspect WEIGHTS --frames DIR ")
    words = ["positional arguments: WEIGHTS", "--frames DIR", "--json Print", "--config CONFIG", "--run.seed"]
    places = [printed.index(word, 200) for word in words]
    assert places == sorted(places)
    assert "Exit code 0" in printed
