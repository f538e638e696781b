"""Loss curves: means between log steps, a named term where one broke, and a file that survives a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfda_engine.errors import TrainingError
from sfda_engine.pipelines.training import Trainer
from sfda_engine.training.metrics import Metrics, read_metrics

Values = dict[str, list[float]]


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["generator/bns", "student/mae", "student/total"]),
        st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=6),
        min_size=1,
    )
)
def test_flush_gives_the_means_since_the_last_one(values: Values) -> None:
    metrics = Metrics(None)
    for _ in range(2):  # nothing of the first round is left in the second
        for step in range(max(map(len, values.values()))):
            metrics.add({name: torch.tensor(each[step]) for name, each in values.items() if step < len(each)})
        means = metrics.flush("adaptation", 1)
        assert means.keys() == values.keys()
        for name, each in values.items():
            assert means[name] == pytest.approx(np.mean(each, dtype=np.float64), rel=1e-4, abs=1e-4)
    assert metrics.flush("adaptation", 2) == {}


def test_added_tensors_may_change_afterwards() -> None:
    metrics, loss = Metrics(None), torch.tensor(1.0)
    metrics.add({"student/mae": loss})
    loss.fill_(7.0)
    assert metrics.flush("adaptation", 1) == {"student/mae": 1.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_term_that_broke_is_named_with_its_step(value: float) -> None:
    metrics = Metrics(None)
    for step in range(3):
        broken = torch.tensor(value if step == 1 else 0.5)
        metrics.add({"student/mae": torch.tensor(1.0), "generator/bns": broken})
    with pytest.raises(TrainingError, match=r"^generator/bns .*step 3"):
        metrics.flush("adaptation", 3)


def written(path: Path) -> list[dict]:
    metrics = Metrics(path)
    lines: list[dict] = [{"phase": "adaptation", "total_step": step, "loss": step / 3} for step in (2, 4, 6, 8)]
    for line in lines:
        metrics.write(dict(line))
    return lines


def test_lines_read_back_as_written(tmp_path: Path) -> None:
    lines = written(tmp_path / "metrics.jsonl")
    assert read_metrics(tmp_path / "metrics.jsonl") == lines
    assert read_metrics(tmp_path / "absent.jsonl") == []


def test_a_line_is_strict_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Metrics(tmp_path / "metrics.jsonl").write({"loss": math.nan})
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize(("total", "kept"), [(0, 0), (5, 2), (6, 3), (99, 4)])
def test_rewind_drops_the_lines_past_the_checkpoint(total: int, kept: int, tmp_path: Path) -> None:
    lines = written(tmp_path / "metrics.jsonl")
    Metrics(tmp_path / "metrics.jsonl").rewind(total)
    assert read_metrics(tmp_path / "metrics.jsonl") == lines[:kept]


def test_a_line_torn_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = written(path)
    path.write_text(path.read_text() + json.dumps({"total_step": 9, "loss": 1.25})[:-4])
    assert read_metrics(path) == lines
    metrics = Metrics(path)
    metrics.rewind(99)
    metrics.write({"total_step": 10})
    assert read_metrics(path) == [*lines, {"total_step": 10}]


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    metrics = Metrics(None)
    metrics.write({"total_step": 1})
    metrics.rewind(0)
    assert list(tmp_path.iterdir()) == []


def test_lines_of_a_run_that_died_before_its_first_checkpoint_are_not_kept(
    trainer: Callable[..., Trainer], tmp_path: Path
) -> None:
    run = trainer("--run.resume", "true", "--run.steps", "1", "--method.warmup_steps", "1")
    (tmp_path / "run" / "metrics.jsonl").write_text('{"phase": "adaptation", "total_step": 1, "stale": 1}\n{"pha')
    run.run()
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["total_step"] for line in lines] == [1, 2]
    assert not any("stale" in line for line in lines)
