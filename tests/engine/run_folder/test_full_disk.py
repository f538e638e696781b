"""A full disk ends the run with exit code 1 and one message; what was there stays, and the run can go on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sfda_engine import files
from sfda_engine.adapt import main
from sfda_engine.exit_codes import exit_code
from sfda_engine.run_folder.checkpoint import list_checkpoints
from tests.engine.conftest import ROOT
from tests.engine.run_folder.killing import leavings


def hidden(run: Path) -> list[Path]:
    """Names that only a run that still writes may have."""
    return list(run.rglob(".*"))


@pytest.mark.parametrize(
    "name", ["config.yaml", "origin.json", "bn_warm_start.safetensors", "adapted.safetensors", "result.json"]
)
def test_disk_full_in_a_file(
    name: str,
    tiny_yaml: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    quick: None,
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    argv = ["--config", str(tiny_yaml), "--run.output"]
    assert exit_code(main, [*argv, str(whole)]) == 0
    true = files.sync_file

    def full(path: Path) -> None:
        if name in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        true(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_file", full)
        assert exit_code(main, [*argv, str(halves)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("storage failed: ")
    assert name in last
    assert "(No space left on device)" in last
    assert hidden(halves) == []
    assert not list(halves.rglob(name)) or name == "bn_warm_start.safetensors"
    assert exit_code(main, [*argv, str(halves), "--run.resume", "true"]) == 0
    assert leavings(halves) == leavings(whole)


@pytest.mark.slow
def test_disk_full_in_a_checkpoint(tiny_yaml: Path, toy_module: Path, tmp_path: Path) -> None:
    """A real disk of 10 MB: the checkpoint of the warm-up (3 MB) fits, the next one (7 MB) does not fit beside it."""
    disk, whole, halves = tmp_path / "disk", tmp_path / "whole", tmp_path / "halves"
    disk.mkdir()
    small = ["unshare", "-rm", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*small, f"mount -t tmpfs tmpfs {disk}"]).returncode != 0:
        pytest.skip("no small disk can be mounted here (unshare -rm, Linux)")
    paths = [str(toy_module), *(str(ROOT / name) for name in ("", "kernels", "export"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    script = f"mount -t tmpfs -o size=10m tmpfs {disk}\n" + '"$@"\ncode=$?\n'
    script += f"cp -a {disk}/run {halves}\nexit $code"
    argv = ["--config", str(tiny_yaml), "--run.keep_last", "1", "--run.output"]
    command = [sys.executable, "-m", "sfda_engine.adapt", *argv, str(disk / "run")]
    ended = subprocess.run([*small, script, "sh", *command], env=environment, text=True, capture_output=True)
    assert ended.returncode == 1, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("storage failed: ")
    assert f"{disk}/run/checkpoints/0000004 " in last
    assert "checkpoint 0000002 " in last
    assert [path.name for path in list_checkpoints(halves)] == ["0000002"]
    assert hidden(halves) == []
    assert exit_code(main, [*argv, str(halves), "--run.resume", "true"]) == 0
    assert exit_code(main, [*argv, str(whole)]) == 0
    assert leavings(halves) == leavings(whole)
