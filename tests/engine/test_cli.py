"""Exit codes and the `sfda` shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from sfda_engine import cli
from sfda_engine.errors import ExportError, TrainingError, UserError
from sfda_engine.exit_codes import exit_code, run_entry

ENTRY = """
import sys
from sfda_engine.config.loader import parse_command
from sfda_engine.exit_codes import run_entry
run_entry(lambda argv: print(parse_command(argv, "entry", "An entry.", "demo").run.steps))
"""


WITHOUT_TORCH = """
import sys
from importlib import import_module
from sfda_engine.exit_codes import exit_code
main = import_module(sys.argv[1]).main
for argv in (["--method.gama", "1"], ["--help"]):
    assert exit_code(main, argv) == 2, argv
    assert "torch" not in sys.modules
"""


def run_process(folder: Path, *argv: str, code: str = ENTRY) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, *argv]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def test_print_config_leaves_with_zero_and_nothing_written(tmp_path: Path) -> None:
    done = run_process(tmp_path, "--config", "camvid_source", "--print_config", "--run.seed", "7")
    assert (done.returncode, done.stderr) == (0, "")
    assert yaml.safe_load(done.stdout)["run"]["seed"] == 7
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("entry", ["adapt", "evaluate", "inspect", "train_source"])
def test_neither_help_nor_a_mistyped_key_waits_for_torch(entry: str, tmp_path: Path) -> None:
    done = run_process(tmp_path, f"sfda_engine.{entry}", code=WITHOUT_TORCH)
    assert done.returncode == 0, done.stderr  # --help ends the process
    assert "--model.weights" in done.stdout


def test_users_mistake_is_one_line_and_exit_code_two(tmp_path: Path) -> None:
    done = run_process(tmp_path, "--method.gama", "1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "'method.gama'" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (UserError("the folder is empty"), 2, "error: the folder is empty\n"),
        (TrainingError("bns_loss became NaN"), 1, "training failed: bns_loss became NaN\n"),
        (ExportError("noise_p50 is 9, above 3"), 1, "export failed: noise_p50 is 9, above 3\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_expected_endings(raised: BaseException, code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: list[str]) -> int:
        raise raised

    assert exit_code(main, []) == code
    assert capsys.readouterr().err == words
    with pytest.raises(SystemExit) as stop:
        run_entry(main)
    assert stop.value.code == code


def test_fault_of_ours_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: list[str]) -> int:
        raise ZeroDivisionError(argv[0])

    assert exit_code(main, ["why"]) == 1
    text = capsys.readouterr().err
    assert "Traceback" in text
    assert "ZeroDivisionError: why" in text


def test_done_is_zero_and_mains_own_code_passes() -> None:
    assert exit_code(lambda argv: None, []) == 0
    assert exit_code(len, ["a", "b", "c"]) == 3


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("adapt", "sfda_engine.adapt"),
        ("train-source", "sfda_engine.train_source"),
        ("train_source", "sfda_engine.train_source"),
        ("evaluate", "sfda_engine.evaluate"),
        ("export", "sfda_export.to_onnx"),
    ],
)
def test_command_runs_its_module(command: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def main(argv: list[str]) -> int:
        seen.append(argv)
        raise UserError("no data")

    imported: list[str] = []

    def import_module(name: str) -> SimpleNamespace:
        imported.append(name)
        return SimpleNamespace(main=main)

    monkeypatch.setattr(cli, "import_module", import_module)
    assert cli.main([command, "--run.steps", "3"]) == 2
    assert (imported, seen) == ([module], [["--run.steps", "3"]])


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_the_commands(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(argv) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("adapt", "train-source", "evaluate"))


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["adpt"]) == 2
    assert "'adpt': the nearest is 'adapt'" in capsys.readouterr().err
