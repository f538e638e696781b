"""The command: a plan that runs nothing, sweeps that stop, fail and go on, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper.domains import CAMVID, DOMAINS, GTA5
from benchmarks.paper.jobs import Run
from benchmarks.paper.options import Options
from benchmarks.paper.plan import duration
from benchmarks.paper.sources import Training
from benchmarks.paper.tables import Job
from sfda_engine.data.datasets import SCENE_FRAMES
from sfda_engine.errors import UserError
from sfda_engine.exit_codes import exit_code
from sfda_engine.pipelines.training import Trainer
from tests.benchmarks.paper.conftest import TRIAL, command

Calls = Callable[[], list[str]]


def methods(told: list[str]) -> list[str]:
    return [json.loads(words).get("method", "train") for words in told]


def test_the_plan_needs_no_data_and_leaves_nothing(
    narrow: None, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    words = ["--table", "1", "--network", "deeplabv3", "--plan", "--seed", "0", "--seed", "1", "--output", str(output)]
    assert command.main(words) == 0
    shown = capsys.readouterr().out
    assert "15 of 15 " in shown  # one source model, seven rows, two seeds
    assert "31008" in shown  # 20 epochs of 12,403 frames by 8
    assert "44625" in shown  # 120 epochs of 2,975 frames by 8
    assert "ESTIMATE: 10% of the 494 TFLOP/s" in shown
    assert calls() == []
    assert not output.exists()


@pytest.mark.slow
def test_the_plan_knows_what_is_done_and_how_long_it_took(
    swept: Path, paper_words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--table", "1", "--plan", *paper_words, "--output", str(swept)]) == 0
    shown = capsys.readouterr().out
    assert "0 of 15 " in shown
    assert "(measured)" in shown


def test_a_sweep_starts_the_source_then_the_rows(
    narrow: None, calls: Calls, no_pictures: None, paper_words: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    words = ["--table", "1", "--network", "segnet", *paper_words, "--output", str(tmp_path)]
    assert command.main(words) == 1  # the source model never came
    assert methods(calls()) == ["train"]
    monkeypatch.setattr(command, "is_trained", lambda training, options: True)
    assert command.main(words) == 0
    rows = ["source_only", "source_min_entropy", "adaptsegnet_single", "source_max_square", "sfda", "sfda"]
    assert methods(calls())[1:] == rows


def test_a_failure_is_told_and_stops_no_other_run(
    narrow: None, no_pictures: None, paper_words: list[str], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    tried: list[str] = []

    def fails(words: list[str]) -> bool:
        tried.append(json.loads(words[-1])["method"])
        return tried[-1] != "source_cbst"

    monkeypatch.setattr(command, "run_apart", fails)
    monkeypatch.setattr(command, "is_trained", lambda training, options: True)
    words = ["--table", "2", *paper_words, "--output", str(tmp_path)]
    assert command.main(words) == 1
    assert len(tried) == 7
    assert "1 failed (source_cbst " in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    swept: Path, narrow: None, no_pictures: None, paper_words: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    """Stopped after the first of two steps; the other one alone is made later."""
    job = Job(GTA5, "deeplabv3", "sfda")
    words = [*paper_words, "--output", str(tmp_path)]
    source = [*words, "--table", "5", "--run", command.words_of(Training(GTA5, "deeplabv3"))]
    assert command.main(source) == 0
    made: list[int] = []
    step = Trainer.adapt_on

    def stops(self: Trainer, index: int, batch: Any) -> Any:
        made.append(index)
        self.loop.interrupts.requested = len(made) == 1
        return step(self, index, batch)

    monkeypatch.setattr(Trainer, "adapt_on", stops)
    run = [*words, "--table", "5", "--run", command.words_of(Run(job, 0))]
    assert exit_code(command.main, run) == 130
    assert not list(tmp_path.glob("runs/*/score.json"))
    assert exit_code(command.main, run) == 0
    assert made == [0, 1]
    (folder,) = tmp_path.glob("runs/*")
    whole = swept / "runs" / folder.name
    assert (folder / "adapted.safetensors").read_bytes() == (whole / "adapted.safetensors").read_bytes()


def test_a_process_of_its_own_gets_the_same_command(monkeypatch: Any) -> None:
    lines: list[list[str]] = []

    class Child:
        code = 0

        def __init__(self, line: list[str]) -> None:
            lines.append(line)

        def __enter__(self) -> Child:
            return self

        def __exit__(self, *exception: object) -> None: ...

        def wait(self) -> int:
            return self.code

    monkeypatch.setattr(subprocess, "Popen", Child)
    assert command.run_apart(["--table", "1"])
    assert lines == [[sys.executable, "-m", "benchmarks.paper", "--table", "1"]]
    Child.code = 2
    assert not command.run_apart([])
    Child.code = 130
    with pytest.raises(KeyboardInterrupt):
        command.run_apart([])


@pytest.mark.parametrize(
    "one", [Training(CAMVID, "streetnet"), Run(Job(CAMVID, "streetnet", "sfda", (("tau", 0.1),)), 3)]
)
def test_a_run_survives_its_word(one: Training | Run, monkeypatch: Any) -> None:
    got: list[object] = []
    monkeypatch.setattr(command, "train", lambda training, options: got.append(training))
    monkeypatch.setattr(command, "perform", lambda run, options: got.append(run))
    options = Options(domain=DOMAINS["camvid"], output=Path("x"))
    assert command.make_one(command.words_of(one), options) == 0
    assert got == [one]


@pytest.mark.slow
def test_camvid_and_scenes(narrow: None, camvid_root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    trial = [*TRIAL, "--output", str(tmp_path)]
    camvid = ["--domain", "camvid", "--camvid-root", str(camvid_root), "--table", "3", "--table", "4", "--figure", "7"]
    assert command.main([*camvid, *trial]) == 0
    page = (tmp_path / "table_3.md").read_text()
    assert "| transfer only | streetnet | ✓ |" in page
    assert "| transfer only | deeplabv3 | 45.87 | 44.03 | 43.96 | 43.55 |" in page  # the paper's own, apart
    assert len(list(tmp_path.glob("runs/*/score.json"))) == 7 + 4 - 2
    monkeypatch.setitem(SCENE_FRAMES, "source", 4)
    assert command.main(["--domain", "scenes", "--table", "4", *trial]) == 0
    page = (tmp_path / "table_4.md").read_text()
    assert "package:demo_source" in page
    assert not list(tmp_path.glob("sources/demo_source*"))


BAD = [
    ([], "name what to make"),
    (["--table", "7"], "there is no table 7 here"),
    (["--figure", "5"], "there is no figure 5 here"),
    (["--table", "1", "--domain", "sceens"], "no domain is called 'sceens'"),
    (["--table", "1", "--network", "streetnet"], "domain paper has no rows for network 'streetnet'"),
    (["--table", "2", "--network", "segnet"], "table 2 has no rows for segnet"),
    (["--table", "1", "--steps", "0"], "must be above 0"),
    (["--table", "1", "--seed", "-1"], "0 or more"),
    (["--table", "1", "--steps", "5", "--epochs", "2"], "give one of them"),
    (["--table", "1", "--size", "64", "32"], "each at least 64"),
    (["--table", "1", "--root", "gta5"], "expected NAME=VALUE"),
    (["--table", "1", "--root", "kitti=x"], "domain paper needs gta5, synthia"),
    (["--table", "1", "--source", "gta5_source=/nowhere"], "there is no file /nowhere"),
    (["--table", "1"], "gta5 is needed: give --data-root DIR"),
    (["--table", "1", "--data-root", "/nowhere"], "/nowhere/cityscapes does not exist"),
    (["--table", "4", "--domain", "camvid"], "needs --camvid-root DIR"),
    (["--table", "4", "--domain", "camvid", "--plan"], "needs --camvid-root DIR"),
    (["--table", "4", "--domain", "camvid", "--camvid-root", "/nowhere"], "/nowhere/dusk"),
]


@pytest.mark.parametrize(
    ("words", "message"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_message_before_anything_runs(
    words: list[str], message: str, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(command.main, [*words, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert calls() == []
    assert not (tmp_path / "out").exists()


def test_a_missing_city_and_missing_labels_are_named(
    narrow: None, calls: Calls, paper_words: list[str], data_root: Path, tmp_path: Path
) -> None:
    crosscity = tmp_path / "crosscity"
    for city in ("Rome", "Rio", "Taipei"):
        (crosscity / city).parent.mkdir(exist_ok=True)
        (crosscity / city).symlink_to(data_root / "crosscity" / city)
    words = ["--table", "3", *paper_words, "--root", f"crosscity={crosscity}", "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="crosscity Tokyo"):
        command.main(words)
    gta5 = tmp_path / "gta5"
    gta5.mkdir()
    (gta5 / "images").symlink_to(data_root / "gta5" / "images")
    words = ["--table", "1", *paper_words, "--root", f"gta5={gta5}", "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="gta5 train"):
        command.main(words)
    assert calls() == []


def test_imagenet_weights_are_looked_for_first(calls: Calls, data_root: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    words = ["--table", "2", "--data-root", str(data_root), *TRIAL, "--output", str(tmp_path / "out")]
    with pytest.raises(UserError, match="--download, or --backbone deeplabv3=FILE"):
        command.main(words)
    with pytest.raises(UserError, match="--backbone deeplabv3: "):
        command.main([*words, "--backbone", "deeplabv3=/nowhere"])
    assert calls() == []


@pytest.mark.parametrize(
    ("hours", "told"),
    [
        (8.27e-05, "0.3 s"),
        (0.01, "36 s"),
        (0.0416, "2.5 min"),
        (1.5, "90 min"),
        (2, "2 h"),
        (123.4, "123 h"),
        (0, "0.0 s"),
    ],
)
def test_durations_are_read_at_a_glance(hours: float, told: str) -> None:
    assert duration(hours) == told
