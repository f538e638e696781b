"""Each command runs in quick mode and leaves its files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import adapt_step, all, attention, patch_entropy
from benchmarks.row import Row, read_csv

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("main", "stem"),
    [
        (attention.main, "attention_cpu"),
        (patch_entropy.main, "patch_entropy_cpu"),
        (adapt_step.main, "adapt_step_streetnet_cpu"),
    ],
)
def test_a_command_leaves_csv_markdown_and_plot(
    main: Callable[[list[str]], list[Row]], stem: str, tmp_path: Path
) -> None:
    rows = main(["--quick", "--output", str(tmp_path / "results")])
    assert rows
    assert read_csv(tmp_path / "results" / f"{stem}.csv") == rows
    assert all_timed(rows)
    table = (tmp_path / "results" / f"{stem}.md").read_text()
    assert all_shown(rows, table)
    assert (tmp_path / "results" / f"{stem}.png").stat().st_size > 1000


def all_timed(rows: list[Row]) -> bool:
    return {bool(row.p50_ms) for row in rows} == {True}


def all_shown(rows: list[Row], table: str) -> bool:
    return {row.provider in table and row.shape in table for row in rows} == {True}


def test_a_budget_that_is_used_up_is_told(tmp_path: Path) -> None:
    rows = attention.main(["--quick", "--budget", "-1", "--output", str(tmp_path)])
    assert {row.note for row in rows} == {"not run: out of budget"}
    assert "out of budget" in (tmp_path / "attention_cpu.md").read_text()


def test_the_script_for_a_gpu_machine_shows_its_jobs(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["kernels", "export", "."]), "OUT": str(tmp_path / "out")}
    command = [sys.executable, "-m", "benchmarks.all", "--dry-run"]
    shown = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    for name in ("pytest", "benchmarks.attention", "benchmarks.patch_entropy", "benchmarks.adapt_step"):
        assert name in shown
    assert str(tmp_path / "out") in shown
    assert not (tmp_path / "out").exists()


def test_the_script_stays_under_nine_minutes_and_goes_on_after_a_failure(tmp_path: Path) -> None:
    assert sum(job.seconds for job in all.jobs(tmp_path)) <= 540
    failing, slow = all.Job("failing", ("-c", "1 / 0"), 20), all.Job("slow", ("-c", "import time; time.sleep(20)"), 1)
    assert "failed (1)" in all.run(failing, tmp_path)
    assert "ZeroDivisionError" in (tmp_path / "failing.log").read_text()
    assert "stopped after 1 s" in all.run(slow, tmp_path)
