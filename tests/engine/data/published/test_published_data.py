"""From fabricated GTA5 to fabricated Cityscapes: source training, adaptation, evaluation by the official layouts."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfda_engine import adapt, evaluate, load_config
from sfda_engine.config.schema import Config
from sfda_engine.data.classes import class_set
from sfda_engine.errors import UserError
from sfda_engine.evaluate import main as evaluate_main
from sfda_engine.exit_codes import exit_code
from sfda_engine.pipelines.source_training import train_source
from tests.engine.audit.test_label_firewall import WATCH
from tests.engine.data.fabricate import fabricate

NINETEEN = class_set("cityscapes").names


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cityscapes")
    fabricate("cityscapes", root, frames=2, domain="night", size=(64, 32))
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, toy_module: Path) -> Path:
    """The toy, trained for a few steps on fabricated GTA5 and validated on its official validation split."""
    root, folder = tmp_path_factory.mktemp("gta5"), tmp_path_factory.mktemp("run")
    fabricate("gta5", root, frames=3)
    path = folder / "gta5_source.yaml"
    path.write_text(
        "run: {steps: 20, log_with: none}\n"
        "model: {arch: 'sfda_toy:segmenter', feature_layer: encoder}\n"
        f"source: {{dataset: gta5, root: {root}, split: train, val_split: val, size: [32, 32], batch_size: 4}}\n"
    )
    return train_source(load_config(path, ["--run.output", str(folder / "out")]))


@pytest.fixture
def config(source: Path, city: Path, tmp_path: Path) -> Callable[..., Config]:
    path = tmp_path / "gta5_to_cityscapes.yaml"
    path.write_text(
        "run: {steps: 2, log_every: 1, log_with: none}\n"
        f"model: {{weights: {source / 'source.safetensors'}}}\n"
        f"target: {{dataset: cityscapes, root: {city}, split: train, size: [64, 32], batch_size: 2}}\n"
        f"evaluate: {{dataset: cityscapes, root: {city}, split: val}}\n"
        "method: {warmup_steps: 1, synthetic_size: [32, 16], patch_grid: 2}\n"
    )
    return lambda *argv: load_config(path, ["--run.output", str(tmp_path / "run"), *argv])


def test_source_is_trained_on_the_19_classes(source: Path) -> None:
    scores: dict[str, Any] = json.loads((source / "evaluation.json").read_text())
    assert tuple(scores["iou"]) == NINETEEN
    assert scores["evaluated_frames"] == 3
    # nothing of these is in the scenes, and every class of the scenes is
    assert {name for name, iou in scores["iou"].items() if iou is None} == {
        *("wall", "fence", "traffic light", "terrain", "rider", "truck", "bus", "train", "motorcycle", "bicycle")
    }


def test_adaptation_to_cityscapes(config: Callable[..., Config], quick: None) -> None:
    run = adapt(config())
    assert run is not None
    result = run.result
    assert result["steps"] == 2
    assert set(result["miou"]) == {"source", "start", "bn_warm_start", "adapted", "last"}
    assert tuple(result["iou"]["adapted"]) == NINETEEN


def test_labels_of_cityscapes_are_opened_after_the_last_step_alone(
    config: Callable[..., Config], city: Path, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    log, yaml = tmp_path / "opened.json", tmp_path / "gta5_to_cityscapes.yaml"
    process = start("-c", WATCH, str(log), "--config", str(yaml), "--run.output", str(tmp_path / "run"))
    _, printed = process.communicate(timeout=100)
    assert process.returncode == 0, printed
    opened = json.loads(log.read_text())
    files = {Path(path).name for event, path, after in opened if event == "open" and after}
    assert files == {path.name for path in (city / "gtFine" / "val").rglob("*_labelIds.png")}
    assert [entry for entry in opened if not entry[2]] == []


def test_means_over_16_and_13_classes_by_name(config: Callable[..., Config]) -> None:
    whole = evaluate(config()).own_size
    for name in ("synthia16", "cityscapes13"):
        part = evaluate(config("--evaluate.subset", f"[{name}]")).own_size
        counted = [iou for key, iou in whole.iou.items() if iou is not None and key in class_set(name).names]
        assert part.iou == whole.iou
        assert part.miou == pytest.approx(sum(counted) / len(counted))
    # pole is in the 16 classes and not in the 13
    assert len([name for name in class_set("synthia16").names if whole.iou[name] is not None]) == 9


def test_cross_city_scores_its_13_classes(config: Callable[..., Config], tmp_path: Path) -> None:
    fabricate("crosscity", tmp_path / "nthu", frames=1, size=(64, 32))
    argv = ["--evaluate.dataset", "crosscity", "--evaluate.root", str(tmp_path / "nthu"), "--evaluate.split", "Rome"]
    iou = evaluate(config(*argv)).own_size.iou
    assert iou["pole"] is None
    assert iou["road"] is not None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--evaluate.root", "nowhere"], "nowhere"),
        (["--evaluate.split", "vall"], "'vall'"),
        (["--evaluate.dataset", "camvid"], "data set camvid"),
        (["--evaluate.dataset", "cityscape"], "cityscapes"),
        (["--evaluate.subset", "[synthia16, lamp]"], "'lamp'"),
    ],
)
def test_mistakes_end_with_exit_code_2(
    argv: list[str], message: str, config: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = tmp_path / "gta5_to_cityscapes.yaml"
    assert exit_code(evaluate_main, ["--config", str(yaml), *argv]) == 2
    assert message in capsys.readouterr().err


def test_adaptation_refuses_labels_it_could_not_score_before_it_starts(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"label folder .*gtFine"):
        adapt(config("--evaluate.root", str(without_labels(tmp_path / "bare"))))
    assert not (tmp_path / "run").exists()


def without_labels(root: Path) -> Path:
    fabricate("cityscapes", root, frames=1)
    shutil.rmtree(root / "gtFine")
    return root
