"""Ceilings of a finished run: what is trained on the labels themselves knows them better."""

from __future__ import annotations

from pathlib import Path

from benchmarks.arena.ceilings import ceilings
from sfda_engine.adapt import main
from tests.engine.conftest import write_frames


def test_the_oracle_is_ahead_of_a_run_that_hardly_trains(tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "frames", "night", 6)
    options = {
        "model.weights": "package:demo_source", "target.root": frames, "target.size": "[32, 32]",
        "target.batch_size": 2, "evaluate.root": frames, "run.steps": 12, "run.log_with": "none",
        "run.output": tmp_path / "run",
    }  # fmt: skip
    assert main([word for key, value in options.items() for word in (f"--{key}", str(value))]) == 0
    found = ceilings(tmp_path / "run")
    assert 0 < found.best_view < found.oracle <= 100
