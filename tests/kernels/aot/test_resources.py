"""The kernels compile for every architecture, within the registers, spills and shared memory of the committed table."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("resources.py")
TABLE = Path(__file__).with_name("resources.csv")
SHARED_LIMIT = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}

Table = dict[tuple[str, str, str, str], dict[str, str]]

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """The table as this machine's triton compiles it, in a process of its own, from an empty cache."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return table(done.stdout)


def table(text: str) -> Table:
    rows = csv.DictReader(text.splitlines())
    return {(row["case"], row["kernel"], row["architecture"], row["triton"]): row for row in rows}


def test_compiled_without_atomics_within_the_shared_memory(measured: Table) -> None:
    assert {key[2] for key in measured} == set(SHARED_LIMIT)
    for key, row in measured.items():
        assert int(row["atomics"]) == 0, key
        assert int(row["shared"]) <= SHARED_LIMIT[key[2]], key


def test_no_kernel_takes_more_than_the_table_says(measured: Table) -> None:
    version = next(iter(measured))[3]
    held = {key: row for key, row in table(TABLE.read_text()).items() if key[3] == version}
    if not held:
        pytest.skip(f"the table has no rows for triton {version}: python {SCRIPT} --write")
    assert measured.keys() == held.keys(), f"python {SCRIPT} --write"
    for key, row in measured.items():
        for resource in ("registers", "stack", "shared", "barriers"):
            assert int(row[resource]) <= int(held[key][resource]), (key, resource)
