"""One process at a time writes to a run folder; the lock dies with its holder, and what is not there is no fault."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sfda_engine.adapt import main
from sfda_engine.errors import UserError
from sfda_engine.exit_codes import exit_code
from sfda_engine.run_folder import lock

HOLDER = """
import os, sys, time
from pathlib import Path
from sfda_engine.run_folder.lock import hold
hold(Path(sys.argv[1]))
if os.fork() == 0:  # a loader process that outlives its parent
    time.sleep(60)
print("holds", os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    yield
    lock.release()


def test_a_second_process_is_told_of_the_first(
    start: Callable[..., subprocess.Popen[str]],
    tiny_yaml: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    quick: None,
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    holder = start("-c", HOLDER, str(run))
    assert holder.stdout is not None
    pid = holder.stdout.readline().split()[1]
    argv = ["--config", str(tiny_yaml), "--run.output", str(run), "--run.resume", "true"]
    assert exit_code(main, argv) == 2
    assert f"{run} is being written by process {pid} on " in capsys.readouterr().err
    assert [path.name for path in run.iterdir()] == [lock.NAME]
    os.kill(holder.pid, signal.SIGKILL)
    holder.stdout.close()
    holder.wait()
    assert exit_code(main, argv) == 0
    assert not (run / lock.NAME).exists()


def test_held_twice_by_one_process(tmp_path: Path) -> None:
    lock.hold(tmp_path)
    lock.hold(tmp_path)
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lockf(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    lock.hold(tmp_path)


def test_a_link_that_leads_outside(tiny_yaml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, outside = tmp_path / "run", tmp_path / "outside"
    run.mkdir()
    outside.mkdir()
    (run / "checkpoints").symlink_to(outside)
    argv = ["--config", str(tiny_yaml), "--run.output", str(run), "--run.resume", "true"]
    assert exit_code(main, argv) == 2
    assert f"{run / 'checkpoints'} in run.output leads to {outside}" in capsys.readouterr().err
    assert list(outside.iterdir()) == []


def test_released_where_the_function_fails(tmp_path: Path) -> None:
    @lock.released_after
    def fails() -> None:
        lock.hold(tmp_path)
        raise UserError("no")

    with pytest.raises(UserError):
        fails()
    assert list(tmp_path.iterdir()) == []
