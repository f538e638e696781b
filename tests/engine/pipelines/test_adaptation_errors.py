"""Every mistake of a user's: exit code 2, one line that says what to do, nothing written."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sfda_engine import adapt
from sfda_engine.adapt import main
from sfda_engine.config.schema import Config
from sfda_engine.evaluate import main as evaluate_main
from sfda_engine.exit_codes import exit_code
from sfda_engine.models import build_segmenter
from sfda_engine.models.weights import WeightsInfo, save_weights

Mistake = Callable[[Path, Path], list[str]]  # (folder to prepare things in, source weights) -> command line
TOY = ["--model.arch", "sfda_toy:segmenter", "--model.feature_layer", "encoder"]


def folder_of_garbage(folder: Path, weights: Path) -> list[str]:
    for name in ("a.png", "b.jpg"):
        (folder / name).write_bytes(b"this is no image")
    return ["--target.root", str(folder)]


def half_an_image(folder: Path, weights: Path) -> list[str]:
    Image.effect_noise((64, 64), 80).save(folder / "whole.png")
    data = (folder / "whole.png").read_bytes()
    (folder / "half.png").write_bytes(data[: len(data) // 2])
    return ["--target.root", str(folder)]


def empty_folder(folder: Path, weights: Path) -> list[str]:
    (folder / "images").mkdir()
    return ["--target.root", str(folder)]


def truncated(folder: Path, weights: Path) -> list[str]:
    (folder / "half.safetensors").write_bytes(weights.read_bytes()[:-100])
    return ["--model.weights", str(folder / "half.safetensors")]


def foreign(folder: Path, weights: Path) -> list[str]:
    save_file(load_file(weights), folder / "foreign.safetensors")
    return ["--model.weights", str(folder / "foreign.safetensors")]


def wrong_class_count(folder: Path, weights: Path) -> list[str]:
    return [*foreign(folder, weights), *TOY, "--model.num_classes", "4"]


def wrong_class_set(folder: Path, weights: Path) -> list[str]:
    return ["--model.classes", "camvid"]


def other_architecture(folder: Path, weights: Path) -> list[str]:
    return [*foreign(folder, weights), "--model.arch", "streetnet", "--model.num_classes", "9"]


def without_batch_norm(folder: Path, weights: Path) -> list[str]:
    info = WeightsInfo(arch="sfda_toy:without_batch_norm", num_classes=9, feature_layer="encoder")
    save_weights(folder / "plain.safetensors", build_segmenter(info.arch, 9, "encoder"), info)
    return ["--model.weights", str(folder / "plain.safetensors"), "--method.preset", "paper"]


def unknown_feature_layer(folder: Path, weights: Path) -> list[str]:
    return [*foreign(folder, weights), *TOY[:3], "no_such_layer", "--model.num_classes", "9"]


def used_run_folder(folder: Path, weights: Path) -> list[str]:
    (folder / "notes.txt").write_text("of another run")
    return ["--run.output", str(folder)]


def file_as_parent(folder: Path, weights: Path) -> list[str]:
    (folder / "file").write_text("")
    return ["--run.output", str(folder / "file" / "run")]


def resume_without_folder(folder: Path, weights: Path) -> list[str]:
    return ["--run.resume", "true", "--run.output", "null"]


def no_labels(folder: Path, weights: Path) -> list[str]:
    (folder / "images").mkdir()
    return ["--evaluate.root", str(folder)]


def frames_as_labels(folder: Path) -> list[str]:
    for inside in ("images", "labels"):
        (folder / inside).mkdir()
        Image.new("L", (32, 32)).save(folder / inside / "a.png")
    return ["--evaluate.root", str(folder)]


def target_is_the_labels(folder: Path, weights: Path) -> list[str]:
    return [*frames_as_labels(folder), "--target.root", str(folder / "labels")]


def a_label_missing(folder: Path, weights: Path) -> list[str]:
    options = frames_as_labels(folder)
    (folder / "labels" / "a.png").unlink()
    return options


def dry_run_into_a_used_folder(folder: Path, weights: Path) -> list[str]:
    return [*used_run_folder(folder, weights), "--dry-run"]


def bad_yaml(folder: Path, weights: Path) -> list[str]:
    (folder / "bad.yaml").write_text("just words")
    return ["--config", str(folder / "bad.yaml")]


def options(*argv: str) -> Mistake:
    return lambda folder, weights: list(argv)


MISTAKES: dict[str, tuple[Mistake, str]] = {
    "missing folder": (options("--target.root", "nowhere"), "nowhere does not exist"),
    "no folder": (options("--target.root", "null"), "target.root is null"),
    "empty folder": (empty_folder, "no JPEG or PNG"),
    "corrupt images": (folder_of_garbage, "2 of 2 images cannot be decoded"),
    "truncated image": (half_an_image, "half.png"),
    "missing config": (options("--config", "nowhere.yaml"), "'nowhere.yaml'"),
    "config without sections": (bad_yaml, "expected sections"),
    "steps -5": (options("--run.steps", "-5"), "run.steps is -5"),
    "patch_grid 0": (options("--method.patch_grid", "0"), "method.patch_grid is 0"),
    "temperature 0": (options("--method.temperature", "0"), "method.temperature is 0"),
    "batch 1": (options("--target.batch_size", "1"), "target.batch_size is 1"),
    "wrong type": (options("--run.steps", "many"), "expected int or null, got 'many'"),
    "unknown key": (options("--method.gama", "1"), "'method.gamma'"),
    "unknown architecture": (
        lambda folder, weights: [*foreign(folder, weights), "--model.arch", "resnext", "--model.num_classes", "9"],
        "unknown model.arch 'resnext'",
    ),
    "weights that do not say what they are": (foreign, "--model.arch "),
    "no weights": (options("--model.weights", "null"), "--model.weights"),
    "missing weights": (options("--model.weights", "no.safetensors"), "no.safetensors"),
    "wrong class count": (wrong_class_count, "set model.num_classes to 9"),
    "wrong class set": (wrong_class_set, "camvid has 11 classes, the model has 9"),
    "weights of another architecture": (other_architecture, "do not fit streetnet"),
    "truncated weights": (truncated, "truncated or damaged"),
    "the paper's generator without BatchNorm": (without_batch_norm, "method.alpha"),
    "unknown feature layer": (unknown_feature_layer, "'no_such_layer' is not a layer"),
    "used run folder": (used_run_folder, "--run.resume true"),
    "unwritable output": (file_as_parent, "cannot be created"),
    "resume of nothing": (resume_without_folder, "--run.output"),
    "no label folder": (no_labels, "no label folder"),
    "target is the label folder": (target_is_the_labels, "is the label folder of section evaluate"),
    "a label missing": (a_label_missing, "1 of 1 images have no label"),
    "dry run into a used folder": (dry_run_into_a_used_folder, "--run.resume true"),
    "scenes to score frames": (
        options("--evaluate.dataset", "scenes", "--evaluate.split", "night"),
        "evaluate is of procedural scenes",
    ),
    "unknown class in the subset": (
        lambda folder, weights: [*frames_as_labels(folder), "--evaluate.subset", "[road, tree]"],
        "'tree'",
    ),
    "fp16 on a CPU": (options("--run.mixed_precision", "fp16"), "needs a GPU"),
}


def everything_in(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_line_and_leaves_no_trace(
    name: str,
    tiny_yaml: Path,
    source_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "fp16" in name and torch.cuda.is_available():
        pytest.skip("fp16 is allowed on a GPU")
    monkeypatch.chdir(tmp_path)
    prepare, words = MISTAKES[name]
    argv = prepare(tmp_path, source_weights)
    before = everything_in(tmp_path)
    assert exit_code(main, ["--config", str(tiny_yaml), "--run.output", "run", *argv]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert words in printed
    assert (printed.count("\n"), "Traceback" in printed) == (1, False)
    assert everything_in(tmp_path) == before


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


def test_code_in_a_pickle_is_not_run(
    tiny: Callable[..., Config], tiny_yaml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker, file = tmp_path / "marker", tmp_path / "model.pth"
    file.write_bytes(pickle.dumps(Bomb(marker)))
    torch.save({"state_dict": Bomb(marker)}, zipped := tmp_path / "zipped.pth")
    for path in (file, zipped):
        argv = ["--config", str(tiny_yaml), "--model.weights", str(path), *TOY, "--model.num_classes", "9"]
        assert exit_code(main, [*argv, "--run.output", str(tmp_path / "run")]) == 2
        assert "executed" in capsys.readouterr().err
    assert not marker.exists()
    pickle.loads(file.read_bytes())  # the bomb is armed: opened the unsafe way, it does leave its mark
    assert marker.exists()


def test_corrupt_image_within_the_share_is_named_and_skipped(
    tiny: Callable[..., Config], night_frames: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, quick: None
) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for path in (night_frames / "images").iterdir():
        for copy in range(4):  # 24 good ones: one of 25 is 4 %
            (frames / f"{path.stem}_{copy}.png").write_bytes(path.read_bytes())
    (frames / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    done = adapt(tiny("--target.root", str(frames), "--run.steps", "1"))
    assert done is not None
    assert [record.levelname for record in caplog.records if "broken.png" in record.getMessage()] == ["WARNING"]


def test_evaluate_refuses_an_output_it_cannot_write(
    tiny_yaml: Path, night_frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", str(tiny_yaml), "--evaluate.root", str(night_frames)]
    assert exit_code(evaluate_main, [*argv, *file_as_parent(tmp_path, tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: run.output ")
    assert (printed.err.count("\n"), printed.out) == (1, "")


def test_network_that_does_not_run_leaves_no_run_folder(
    tiny_yaml: Path, source_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A feature layer that is no feature map shows only in a forward pass: it must not cost the run folder."""
    info = WeightsInfo(arch="sfda_toy:flat_features", num_classes=9, feature_layer="flat")
    weights = tmp_path / "flat.safetensors"
    save_weights(weights, build_segmenter(info.arch, 9, "flat"), info)
    run = tmp_path / "run"
    argv = ["--config", str(tiny_yaml), "--model.weights", str(weights), "--run.output", str(run)]
    assert exit_code(main, argv) == 2
    assert "'flat'" in capsys.readouterr().err
    assert not run.exists()
