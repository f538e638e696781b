"""The suite notices small wrong edits: each of `planted_faults.py`, planted alone in a copy, makes its tests fail.

The planting takes minutes and runs only where it is asked for: `pytest -m faults tests/project/test_planted_faults.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.project.planted_faults import FAULTS, Fault

ROOT = Path(__file__).parents[2]
FAILED = 1
"""pytest's exit code where tests ran and failed; others tell of a list that is wrong."""

Run = Callable[..., subprocess.CompletedProcess[str]]


def text_of(name: str) -> str:
    """Content of a file of the repository; empty where there is none."""
    return (ROOT / name).read_text(encoding="utf-8") if (ROOT / name).is_file() else ""


def test_every_fault_can_still_be_planted() -> None:
    counts = {fault.name: text_of(fault.file).count(fault.old) for fault in FAULTS}
    assert {name: count for name, count in counts.items() if count != 1} == {}
    tests = {test.partition("::")[::2] for fault in FAULTS for test in fault.tests}
    assert [(file, name) for file, name in sorted(tests) if f"def {name or 'test_'}" not in text_of(file)] == []
    assert len(counts) == len(FAULTS) >= 30


@pytest.fixture(scope="module")
def copy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the files that git tracks, as they lie in the working tree."""
    if "faults" not in str(request.config.getoption("-m")):
        pytest.skip("minutes of planted faults; run them with pytest -m faults tests/project")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("copy") / "tree"
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def run(copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run tests of the copy up to the first failure."""
    paths = os.pathsep.join(str(copy / part) for part in ("", "kernels", "export"))
    # no bytecode: it is found stale by whole seconds and size, which an edit may keep
    environment = os.environ | {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    basetemp = tmp_path_factory.mktemp("inner") / "basetemp"  # emptied at each start
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"--basetemp={basetemp}"]

    def run(*tests: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *tests], cwd=copy, env=environment, capture_output=True, text=True)

    return run


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_the_copy_itself_is_whole(run: Run) -> None:
    ended = run(*sorted({test for fault in FAULTS for test in fault.tests}))
    assert ended.returncode == 0, ended.stdout[-3000:]


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_noticed(fault: Fault, copy: Path, run: Run) -> None:
    file = copy / fault.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace(fault.old, fault.new), encoding="utf-8")
    try:
        ended = run(*fault.tests)
    finally:
        file.write_text(whole, encoding="utf-8")
    assert ended.returncode == FAILED, ended.stdout[-3000:]
