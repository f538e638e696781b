"""The source recipes end to end on fabricated data: trained, validated, scored on the target after the last step."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sfda_engine import adapt
from sfda_engine.adapt import main as adapt_main
from sfda_engine.config.loader import load_config
from sfda_engine.data.classes import class_set
from sfda_engine.errors import UserError
from sfda_engine.evaluate import main as evaluate_main
from sfda_engine.exit_codes import exit_code
from sfda_engine.models import build_segmenter
from sfda_engine.models.weights import WeightsInfo, read_weights, save_weights
from sfda_engine.pipelines.source_training import train_source
from sfda_engine.train_source import main
from tests.engine.data.fabricate import fabricate

TOY = ["--model.arch", "sfda_toy:segmenter", "--model.feature_layer", "encoder"]
TINY = ["--run.epochs", "null", "--run.log_with", "none", "--model.backbone_weights", "null"]
RECIPES = {
    "gta5_source": ("gta5", "cityscapes"),
    "gta5_source_segnet": ("gta5", "cityscapes"),
    "synthia_source": ("synthia", "cityscapes"),
    "cityscapes_source": ("cityscapes", "crosscity"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, toy_module: Path) -> dict[str, Path]:
    """Roots of fabricated data sets; the cities of Cross-City are at night."""
    roots = {name: tmp_path_factory.mktemp(name) for name in ("gta5", "synthia", "cityscapes", "crosscity")}
    for name, root in roots.items():
        fabricate(name, root, frames=2, domain="night" if name == "crosscity" else "day", size=(64, 32))
    return roots


def command(name: str, data: dict[str, Path], folder: Path, *argv: str) -> list[str]:
    """A source recipe at 64x32 for two steps of two frames."""
    source, target = RECIPES[name]
    roots = ["--source.root", str(data[source]), "--evaluate.root", str(data[target])]
    city = ["--evaluate.split", "Rio"] if target == "crosscity" else []
    small = ["--run.steps", "2", "--source.size", "[64, 32]", "--source.batch_size", "2", "--run.num_workers", "0"]
    return ["--config", name, "--run.output", str(folder), *roots, *city, *small, *TINY, *argv]


def scores(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def toy_source(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "run"
    return (
        train_source(load_config("gta5_source", command("gta5_source", data, folder, *TOY)[2:])) / "source.safetensors"
    )


def adaptation(toy_source: Path, root: Path, folder: Path, *argv: str) -> list[str]:
    """The recipe gta5_to_cityscapes at 64x32 for one step of two frames."""
    roots = ["--model.weights", str(toy_source), "--target.root", str(root), "--evaluate.root", str(root)]
    small = ["--run.steps", "1", "--target.size", "[64, 32]", "--target.batch_size", "2", "--run.num_workers", "0"]
    small += ["--method.synthetic_size", "[32, 16]", "--method.warmup_steps", "1"]
    return ["--run.output", str(folder), *roots, *small, *TINY, *argv]


@pytest.mark.parametrize("name", ["gta5_source", "cityscapes_source"])
def test_recipe_warns_of_a_source_that_deviates(
    name: str, data: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = command(name, data, tmp_path / "run", *TOY)[2:]
    folder = train_source(load_config(name, [*options, "--evaluate.expected_source_miou", "100"]))
    target = scores(folder)["target"]
    assert target["source_miou_deviation"] == pytest.approx(target["miou"] - 100)
    assert "expected 100.00 (evaluate.expected_source_miou)" in caplog.text
    caplog.clear()
    near = f"{target['miou'] + 2.5:.4f}"
    again = [*options, "--run.resume", "true", "--evaluate.expected_source_miou", near]  # nothing is left to train
    assert scores(train_source(load_config(name, again)))["target"]["expected_source_miou"] == float(near)
    assert "expected_source_miou" not in caplog.text


@pytest.mark.parametrize("name", ["synthia_source", "gta5_source_segnet"])
def test_recipe_with_its_own_network(name: str, data: dict[str, Path], tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfda_engine.training.loop.save_checkpoint", lambda *arguments, **options: None)  # 0.3 GB each
        assert exit_code(main, command(name, data, tmp_path / "run")) == 0
    written, recipe = scores(tmp_path / "run"), load_config(name)
    _, info = read_weights(tmp_path / "run" / "source.safetensors")
    assert info is not None
    assert (info.arch, info.class_names) == (recipe.model.arch, class_set(recipe.model.classes or "").names)
    assert written["evaluated_frames"] == written["target"]["evaluated_frames"] == 2
    assert tuple(written["target"]["iou"]) == info.class_names


# Every open() and listing inside the target's label folder, and whether it came after the last step.
WATCH = """
import json, os, sys
opened, done = [], False
def watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and arguments and isinstance(arguments[0], (str, bytes)):
        path = os.fsdecode(arguments[0])
        if path.startswith(labels):
            opened.append((path, done))
log, labels, *argv = sys.argv[1:]
sys.addaudithook(watch)

from sfda_engine import train_source
from sfda_engine.pipelines import source_training
true_run = source_training.run_training
def run(*arguments):
    global done
    model = true_run(*arguments)
    done = True
    return model
source_training.run_training = run
code = train_source.main(argv)
with open(log, "w") as file:
    json.dump(opened, file)
sys.exit(code)
"""


def test_no_target_label_is_opened_before_the_last_step(
    data: dict[str, Path], tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    log, labels = tmp_path / "opened.json", data["cityscapes"] / "gtFine"
    process = start("-c", WATCH, str(log), str(labels), *command("gta5_source", data, tmp_path / "run", *TOY))
    _, printed = process.communicate(timeout=100)
    assert process.returncode == 0, printed
    opened = json.loads(log.read_text())
    assert {path for path, after in opened if after} == {str(path) for path in (labels / "val").rglob("*_labelIds.png")}
    assert [entry for entry in opened if not entry[1]] == []


def test_the_target_is_left_out_where_it_is_not_on_disk(
    data: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = command("gta5_source", data, tmp_path / "run", *TOY, "--evaluate.root", "null")[2:]
    assert "target" not in scores(train_source(load_config("gta5_source", options)))
    assert "evaluate.root is null" in caplog.text


def in_colors(root: Path) -> None:
    for path in root.rglob("*_labelIds.png"):
        Image.open(path).convert("RGB").save(path)


def cut(root: Path) -> None:
    path = sorted(root.rglob("*_labelIds.png"))[-1]
    path.write_bytes(path.read_bytes()[:-30])


def half_extracted(root: Path) -> None:
    next((root / "gtFine" / "val").rglob("*_labelIds.png")).unlink()
    next((root / "gtFine" / "train").rglob("*_labelIds.png")).unlink()
    (root / "gtFine_trainvaltest.zip").write_bytes(b"PK")


DAMAGES = {
    "wrong encoding": (in_colors, "has mode RGB"),
    "cut file": (cut, "stop before their end"),
    "half extracted": (half_extracted, "gtFine_trainvaltest.zip there is not extracted"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_data_is_told_before_training_and_before_evaluation(
    damage: str, toy_source: Path, data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, words = DAMAGES[damage]
    root, run = tmp_path / "cityscapes", tmp_path / "run"
    fabricate("cityscapes", root, frames=2, size=(64, 32))
    spoil(root)
    assert exit_code(main, command("cityscapes_source", data | {"cityscapes": root}, run, *TOY)) == 2
    assert words in capsys.readouterr().err
    argv = ["--config", "gta5_to_cityscapes", *adaptation(toy_source, root, run)]
    assert exit_code(evaluate_main, argv) == 2
    assert words in capsys.readouterr().err
    if damage == "half extracted":  # told by the names of the files; adaptation opens no label before its last step
        assert exit_code(adapt_main, argv) == 2
        assert words in capsys.readouterr().err
    assert wrote_nothing(run)


def wrote_nothing(run: Path) -> bool:
    return not run.exists() or not any(run.iterdir())


def test_weights_of_another_class_count_are_told_before_anything_runs(
    data: dict[str, Path], toy_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = WeightsInfo(arch=TOY[1], feature_layer=TOY[3], num_classes=7)
    save_weights(tmp_path / "seven.safetensors", build_segmenter(info.arch, 7, info.feature_layer), info)
    argv = adaptation(tmp_path / "seven.safetensors", data["cityscapes"], tmp_path / "run")
    argv = ["--config", "gta5_to_cityscapes", "--evaluate.subset", "null", *argv]
    for entry in (adapt_main, evaluate_main):
        assert exit_code(entry, argv) == 2
        assert "has 7 classes" in capsys.readouterr().err
    assert wrote_nothing(tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--source.root", "nowhere"], "nowhere"),
        (["--evaluate.root", "nowhere"], "nowhere"),
        (["--source.split", "trian"], "'train'"),
        (["--model.classes", "null", "--model.num_classes", "7"], "contradicts model.classes cityscapes (19)"),
        (["--model.classes", "camvid"], "data set gta5"),
        (["--evaluate.subset", "[lamp]"], "'lamp'"),
        (
            [
                "--model.arch",
                "deeplabv3_resnet50",
                "--model.feature_layer",
                "null",
                "--model.backbone_weights",
                "imagenet",
            ],
            "--model.download true",
        ),
    ],
)
def test_mistakes_cost_nothing(
    options: list[str],
    words: str,
    data: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    assert exit_code(main, command("gta5_source", data, tmp_path / "run", *TOY, *options)) == 2
    printed = capsys.readouterr().err
    assert words in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "run").exists()


def test_adaptation_warns_of_a_source_that_deviates(
    toy_source: Path, data: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, quick: None
) -> None:
    def result(name: str, expected: str) -> dict[str, Any]:
        options = adaptation(
            toy_source, data["cityscapes"], tmp_path / name, "--evaluate.expected_source_miou", expected
        )
        done = adapt(load_config("gta5_to_cityscapes", options))
        assert done is not None
        return done.result

    far = result("far", "100")
    assert far["source_miou_deviation"] == pytest.approx(far["miou"]["source"] - 100)
    assert "expected 100.00" in far["warnings"][0]
    assert far["warnings"][0] in caplog.text
    caplog.clear()
    near = result("near", f"{far['miou']['source'] + 1:.4f}")
    assert near["source_miou_deviation"] == pytest.approx(-1, abs=1e-3)
    assert (near["warnings"], "expected_source_miou" in caplog.text) == ([], False)


def test_target_labels_that_cannot_be_read_cost_no_training(data: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / "cityscapes"
    fabricate("cityscapes", root, size=(64, 32))
    kept = {path: path.read_bytes() for path in root.rglob("*_labelIds.png")}
    in_colors(root)
    options = command("gta5_source", data | {"cityscapes": root}, tmp_path / "run", *TOY)[2:]
    with pytest.raises(UserError, match=r"mode RGB.*--run.resume true"):
        train_source(load_config("gta5_source", options))
    weights = (tmp_path / "run" / "source.safetensors").read_bytes()
    for path, content in kept.items():
        path.write_bytes(content)
    train_source(load_config("gta5_source", [*options, "--run.resume", "true"]))
    assert scores(tmp_path / "run")["target"]["evaluated_frames"] == 2
    assert (tmp_path / "run" / "source.safetensors").read_bytes() == weights


def test_labels_that_adaptation_cannot_read_cost_no_adaptation(
    toy_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    """They are opened after the last step: the run is kept, and finishes once they are put right."""
    root = tmp_path / "cityscapes"
    fabricate("cityscapes", root, size=(64, 32))
    kept = {path: path.read_bytes() for path in root.rglob("*_labelIds.png")}
    in_colors(root)
    options = adaptation(toy_source, root, tmp_path / "run")
    with pytest.raises(UserError, match=r"mode RGB.*--run.resume true"):
        adapt(load_config("gta5_to_cityscapes", options))
    adapted = (tmp_path / "run" / "adapted.safetensors").read_bytes()
    for path, content in kept.items():
        path.write_bytes(content)
    monkeypatch.setattr("sfda_engine.pipelines.training.Trainer.adapt_on", None)  # no step is taken any more
    done = adapt(load_config("gta5_to_cityscapes", [*options, "--run.resume", "true"]))
    assert done is not None
    assert done.result["miou"]["adapted"] >= 0
    assert (tmp_path / "run" / "adapted.safetensors").read_bytes() == adapted
