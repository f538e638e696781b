"""`run.export`: one command adapts and leaves a bundle that the vehicle accepts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sfda_engine import adapt, load_config
from sfda_runtime import Segmenter, Status

QUICK = {
    "run.steps": "1",
    "run.log_with": "none",
    "method.warmup_steps": "1",
    "method.pseudo_label_weight": "0",
    "target.size": "[64, 48]",
    "target.frames": "8",
    "evaluate.frames": "2",
}


@pytest.mark.slow
def test_one_command_adapts_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = [token for key, value in QUICK.items() for token in (f"--{key}", value)]
    run = adapt(load_config("demo", [*overrides, "--run.output", "run", "--run.export", "true"]))
    assert run is not None
    segmenter = Segmenter.load(run.folder / "bundle")
    assert segmenter.card.size == (64, 48)
    assert segmenter.card.verdict == run.result["verdict"]
    frame = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    result = segmenter(frame)
    assert result.status is Status.OK
    assert result.labels.shape == (96, 128)
