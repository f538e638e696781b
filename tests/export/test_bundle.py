"""A bundle is there whole or not at all, and its manifest covers it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sfda_engine.errors import UserError
from sfda_export.bundle import check_output, new_bundle
from tests.export.user_net import save_small

ROOT = Path(__file__).parents[2]


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_a_bundle_appears_when_it_is_finished(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "bundle"
    with new_bundle(folder) as partial:
        (partial / "model.onnx").write_text("x")
        assert not folder.exists()
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]
    assert hidden(folder.parent) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_where_it_fails(error: type[BaseException], tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with new_bundle(tmp_path / "bundle") as partial:
            (partial / "golden").mkdir()
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_left_overs_of_killed_exports_go_and_running_ones_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for name in (f".bundle.{ended.pid}.partial", f".bundle.{os.getppid()}.partial", f".other.{ended.pid}.partial"):
        (tmp_path / name).mkdir()
    with new_bundle(tmp_path / "bundle"):
        pass
    assert hidden(tmp_path) == [f".bundle.{os.getppid()}.partial", f".other.{ended.pid}.partial"]


def test_an_empty_folder_is_taken_and_a_full_one_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_bundle(tmp_path / "empty") as partial:
        (partial / "x").touch()
    for taken in (tmp_path / "empty", tmp_path / "empty" / "x"):
        with pytest.raises(UserError, match="is not empty"):
            check_output(taken)
    with pytest.raises(UserError, match="cannot be created"):
        check_output(tmp_path / "empty" / "x" / "bundle")


def test_a_killed_export_leaves_no_bundle(tmp_path: Path, environment: dict[str, str]) -> None:
    weights, output = save_small(tmp_path / "net.safetensors"), tmp_path / "bundle"
    command = [sys.executable, "-m", "sfda_export.to_onnx", weights, "--output", output, "--frames", "scenes:day"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.glob(".bundle.*/model.onnx")):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.safetensors"]
