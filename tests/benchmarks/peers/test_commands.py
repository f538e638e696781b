"""The command: one row, a sweep that goes on where it was, the plan, and bad input."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.common.methods import PEERS
from benchmarks.common.methods.domains import DOMAINS, domain_config, require_source, settings
from benchmarks.common.methods.source_driven import SOURCE_DRIVEN
from benchmarks.peers.rows import PeerRow, append_row, read_rows
from sfda_engine.config.loader import load_config
from sfda_engine.config.schema import Config
from sfda_engine.data.classes import class_set
from sfda_engine.errors import UserError
from sfda_engine.models import build_segmenter
from sfda_engine.models.preprocess import Normalization
from sfda_engine.models.weights import WeightsInfo, save_weights
from tests.benchmarks.common.methods.conftest import tiny_config

command = importlib.import_module("benchmarks.peers.__main__")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every domain is the tiny one."""
    monkeypatch.setattr(command, "domain_config", lambda domain, *camvid: tiny_config())


def made(method: str, domain: str, seed: int, steps: int = 2) -> PeerRow:
    return PeerRow(
        method=method,
        domain=domain,
        seed=seed,
        settings=settings(tiny_config(), steps),
        source_free=True,
        miou_source=1.0,
        miou_bn_warm_start=2.0,
        miou_final=3.0,
        miou_best=4.0,
        best_step=1,
        steps=steps,
        seconds=70.0,
        idle_seconds=7.0,
        peak_memory_mb=5.0,
        time="2026",
    )


def test_one_run_leaves_a_row_and_the_table(small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--method", "tent", "--domain", "scenes:night", "--seed", "3", "--steps", "2", "--output", str(tmp_path)]
    assert command.main(words) == 0
    (row,) = read_rows(tmp_path / "peers.csv")
    assert (row.method, row.domain, row.seed, row.steps) == ("tent", "scenes:night", 3, 2)
    assert "| tent | none |" in (tmp_path / "peers.md").read_text()
    assert "final" in capsys.readouterr().out
    assert command.main(words) == 0  # it is there: nothing is measured again
    assert read_rows(tmp_path / "peers.csv") == [row]


def test_a_sweep_runs_what_is_missing_and_goes_on_after_a_failure(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "peers.csv"
    append_row(table, made("adabn", "scenes:fog", 0))
    append_row(table, made("tent", "scenes:fog", 1))
    append_row(table, made("tent", "scenes:fog", 0, steps=9))  # another schedule is another row
    table.write_text(table.read_text() + "adabn,scenes:fog,1,")  # and one that was killed while it was written
    ran: list[tuple[str, int]] = []

    def fake(line: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        options = dict(zip(line[3::2], line[4::2], strict=True))
        ran.append((options["--method"], int(options["--seed"])))
        if ran[-1] == ("tent", 0):
            return subprocess.CompletedProcess(line, 1)
        append_row(Path(options["--output"]) / "peers.csv", made(options["--method"], options["--domain"], ran[-1][1]))
        return subprocess.CompletedProcess(line, 0)

    monkeypatch.setattr(subprocess, "run", fake)
    words = ["--all", "--method", "adabn", "--method", "tent", "--domain", "scenes:fog", "--seed", "0", "--seed", "1"]
    words += ["--steps", "2", "--output", str(tmp_path)]
    assert command.main(words) == 1
    assert ran == [("tent", 0), ("adabn", 1)]
    assert "tent on scenes:fog seed 0" in capsys.readouterr().err
    assert command.main(words) == 1
    assert ran[2:] == [("tent", 0)]


def test_a_run_of_its_own_process_is_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[list[str]] = []
    monkeypatch.setattr(
        subprocess, "run", lambda line: lines.append(line) or subprocess.CompletedProcess(line, 0)
    )  # fmt: skip
    words = [
        "--all",
        "--domain",
        "scenes:night",
        "--seed",
        "0",
        "--steps",
        "5",
        "--limit",
        "9",
        "--output",
        str(tmp_path),
    ]
    assert command.main(words) == 0
    assert [line[4] for line in lines] == [*PEERS, *SOURCE_DRIVEN]
    assert lines[0][:3] == [sys.executable, "-m", "benchmarks.peers"]
    parsed = command.parse(lines[1][3:])
    assert (parsed.method, parsed.domain, parsed.seed) == (["adabn"], ["scenes:night"], [0])
    assert (parsed.steps, parsed.limit, parsed.output) == (5, 9.0, tmp_path)


def test_the_plan_says_what_is_missing_and_runs_nothing(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    append_row(tmp_path / "peers.csv", made("tent", "scenes:night", 0))
    words = ["--plan", "--method", "tent", "--method", "cbst", "--domain", "scenes:night", "--steps", "2"]
    assert command.main([*words, "--output", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "5 of 6 " in shown
    assert "7 (measured)" in shown
    assert "at most 45" in shown
    assert "about 2 min" in shown  # 2 x 7 s + 3 x 45 s
    assert len(read_rows(tmp_path / "peers.csv")) == 1
    assert not (tmp_path / "peers.md").exists()


def test_without_camvid_the_scenes_are_all(tmp_path: Path) -> None:
    arguments = command.parse(["--all"])
    assert command.default_domains(arguments) == tuple(name for name in DOMAINS if name.startswith("scenes"))
    assert command.default_domains(command.parse(["--all", "--camvid-root", "x"])) == DOMAINS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "tnet", "--all"], "'tnet'"),
        (["--domain", "scenes:snow", "--all"], "'scenes:snow'"),
        (["--method", "tent", "--domain", "scenes:night"], "name --method, --domain and --seed"),
        (["--all", "--steps", "0"], "above 0"),
        (["--all", "--limit", "0"], "above 0"),
        (["--all", "--seed", "-1"], "0 or more"),
        (["--all", "--domain", "camvid:dusk"], "needs --camvid-source FILE"),
        (["--all", "--camvid-root", "/nowhere"], "needs --camvid-source FILE"),
        (["--all", "--domain", "camvid:dusk", "--camvid-root", "/nowhere", "--camvid-source", "x"], "no folder"),
    ],
)
def test_bad_input_is_told_before_anything_runs(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        command.main([*words, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_camvid_source_that_is_not_there(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / "dusk" / kind).mkdir(parents=True)
    with pytest.raises(UserError, match=r"missing\.safetensors"):
        domain_config("camvid:dusk", tmp_path / "missing.safetensors", tmp_path)


def test_camvid_trains_on_its_day_frames(tmp_path: Path) -> None:
    """On files made here: eight frames of noise a folder, a network that has learned nothing."""
    camvid, dice = class_set("camvid"), np.random.default_rng(0)
    for folder in ("dusk", "day_train"):
        for kind in ("images", "labels"):
            (tmp_path / folder / kind).mkdir(parents=True)
        for index in range(8):
            for kind, shape, top in (("images", (120, 160, 3), 256), ("labels", (120, 160), 11)):
                pixels = Image.fromarray(dice.integers(0, top, shape, dtype=np.uint8))
                pixels.save(tmp_path / folder / kind / f"{index}.png")
    info = WeightsInfo(
        arch="streetnet",
        num_classes=11,
        class_names=camvid.names,
        palette=camvid.palette,
        normalization=Normalization(),
    )
    save_weights(tmp_path / "source.safetensors", build_segmenter("streetnet", 11), info)
    words = ["--method", "source_max_square", "--domain", "camvid:dusk", "--seed", "0", "--steps", "1"]
    words += ["--camvid-root", str(tmp_path), "--camvid-source", str(tmp_path / "source.safetensors")]
    assert command.main([*words, "--output", str(tmp_path / "out")]) == 0
    (row,) = read_rows(tmp_path / "out" / "peers.csv")
    assert (row.domain, row.source_free, row.steps) == ("camvid:dusk", False, 1)


def test_domains_are_the_shipped_runs() -> None:
    config: Config = domain_config("scenes:rain")
    assert (config.target.split, config.evaluate.split if config.evaluate else None) == ("rain", "rain")
    assert (config.target.size, config.model.exposure) == ((128, 96), "gamma")
    assert config.source == load_config("demo_source").source


def test_a_source_driven_row_says_so(small: None, tmp_path: Path) -> None:
    words = ["--method", "source_max_square", "--domain", "scenes:night", "--seed", "0", "--steps", "1"]
    assert command.main([*words, "--output", str(tmp_path)]) == 0
    (row,) = read_rows(tmp_path / "peers.csv")
    assert (row.source_free, row.settings) == (False, settings(tiny_config(), 1))
    assert "| source_max_square | **needed** |" in (tmp_path / "peers.md").read_text()


@pytest.fixture
def camvid(tmp_path: Path) -> list[str]:
    """Files of CamVid dusk, none of them with a frame in it, and of no day."""
    for kind in ("images", "labels"):
        (tmp_path / "camvid" / "dusk" / kind).mkdir(parents=True)
    weights = tmp_path / "source.safetensors"
    weights.write_bytes(b"")
    return ["--camvid-root", str(tmp_path / "camvid"), "--camvid-source", str(weights), "--domain", "camvid:dusk"]


def test_the_day_frames_are_asked_for_where_a_method_needs_them(camvid: list[str], tmp_path: Path) -> None:
    plan = ["--plan", *camvid, "--seed", "0", "--output", str(tmp_path / "out")]
    assert command.main([*plan, "--method", "tent"]) == 0
    missing = tmp_path / "camvid" / "day_train" / "images"
    for methods in ([], ["--method", "tent", "--method", "source_cbst"]):
        with pytest.raises(UserError, match=f"no folder {missing}, the labelled source frames .* by --method"):
            command.main([*plan, *methods])
    for kind in ("images", "labels"):
        (tmp_path / "camvid" / "day_train" / kind).mkdir(parents=True)
    assert command.main(plan) == 0
    config = domain_config("camvid:dusk", tmp_path / "source.safetensors", tmp_path / "camvid")
    require_source(config)
    expected = load_config("camvid_source", ["--source.root", str(tmp_path / "camvid" / "day_train")])
    assert config.source == expected.source
