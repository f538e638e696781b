"""--dry-run: the plan, measured on the real data, and nothing on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sfda_engine import adapt
from sfda_engine.adapt import main
from sfda_engine.config.schema import Config
from sfda_engine.exit_codes import exit_code


def test_plan_is_printed_and_nothing_written(
    tiny_yaml: Path,
    night_frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    argv = ["--config", str(tiny_yaml), "--evaluate.root", str(night_frames), "--run.output", "run", "--dry-run"]
    assert exit_code(main, argv) == 0
    plan = capsys.readouterr().out
    for words in ("6 frames at 32x32, batch 2", "2 generator warm-up + 3 adaptation", "sfda_toy:segmenter, 9 classes"):
        assert words in plan
    assert "distance from source" in plan
    assert "expected time" in plan
    assert "MiB peak" in plan
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [[], ["--method.gamma", "0", "--method.alpha", "0", "--method.beta", "0"]])
def test_python_api_returns_none(options: list[str], tiny: Callable[..., Config], tmp_path: Path) -> None:
    assert adapt(tiny("--run.dry_run", "true", *options)) is None
    assert list(tmp_path.iterdir()) == []
