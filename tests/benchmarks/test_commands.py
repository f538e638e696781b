"""Each command runs in quick mode and leaves its files."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import adapt_step, all, attention, inference, patch_entropy
from benchmarks.common import plot
from benchmarks.common.row import Row, read_rows
from benchmarks.paper.__main__ import parse as parse_paper
from benchmarks.peers.__main__ import parse as parse_peers
from sfda_engine.exit_codes import exit_code

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("main", "stem"),
    [
        (attention.main, "attention_cpu"),
        (patch_entropy.main, "patch_entropy_cpu"),
        (adapt_step.main, "adapt_step_streetnet_cpu"),
        (inference.main, "inference_cpu"),
    ],
)
def test_a_command_leaves_csv_markdown_and_plot(
    main: Callable[[list[str]], list[Row]], stem: str, tmp_path: Path
) -> None:
    rows = main(["--quick", "--output", str(tmp_path / "results")])
    assert rows
    assert read_rows(tmp_path / "results" / f"{stem}.csv") == rows
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
    environment = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path / "out")}
    command = [str(ROOT / "benchmarks" / "run_gpu.sh"), "--dry-run", "--output", str(tmp_path / "results")]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    for name in ("pytest", "benchmarks.attention", "benchmarks.patch_entropy", "benchmarks.adapt_step", "out/"):
        assert name in shown
    assert list(tmp_path.iterdir()) == []


def test_the_script_goes_on_after_a_failure_and_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [
        all.Job("failing", ("-c", "1 / 0"), 20),
        all.Job("slow", ("-c", "import time; time.sleep(20)"), 1),
        all.Job("good", ("-c", "print('done')"), 20),
    ]
    monkeypatch.setattr(all, "jobs", lambda folder: jobs)
    monkeypatch.setenv("OUT", str(tmp_path / "out"))
    assert all.main(["--output", str(tmp_path / "results")]) == 1
    summary = (tmp_path / "results" / "summary.txt").read_text()
    assert "failing: failed (1)" in summary
    assert "slow: stopped after 1 s" in summary
    assert "good: done" in summary
    assert "ZeroDivisionError" in (tmp_path / "results" / "failing.log").read_text()
    with tarfile.open(tmp_path / "out" / "benchmarks.tar.gz") as archive:
        assert {"./failing.log", "./slow.log", "./good.log", "./summary.txt"} <= set(archive.getnames())


def test_the_script_stays_under_nine_minutes() -> None:
    assert sum(job.seconds for job in all.jobs(Path("results"))) <= 540


def test_a_gpu_machine_needs_neither_jsonargparse_nor_docstring_parser() -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['jsonargparse', 'docstring_parser'])); "
    code = blocked + "import benchmarks.attention, benchmarks.patch_entropy, benchmarks.adapt_step"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([".", "kernels", "export"])}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


@pytest.mark.parametrize("parse", [parse_paper, parse_peers, plot.main])
def test_help_begins_with_what_to_type(parse: Callable[[list[str]], Any], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(["--help"])
    told = capsys.readouterr().out
    assert "`python -m benchmarks." in told
    assert "ENTRY" not in told


def test_a_plot_of_no_csv_is_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for name in ("nope.csv", "other.csv"):
        assert exit_code(plot.main, [str(tmp_path / name)]) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ")
        assert str(tmp_path / name) in told
