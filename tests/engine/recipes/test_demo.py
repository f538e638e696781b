"""The embedded demo, as shipped: source model, scenes, config. The figures are the README's promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sfda_engine import adapt, load_config
from sfda_engine.config.loader import resolve_weights
from sfda_engine.models.weights import build_from_weights


def test_shipped_source_model_is_small_and_describes_itself() -> None:
    path = resolve_weights("package:demo_source")
    assert path.stat().st_size <= 3_000_000
    _, info = build_from_weights(path)
    assert (info.arch, info.num_classes, info.exposure) == ("streetnet", 9, "none")
    assert info.method == "train_source"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_beats_the_source_by_8_points_and_its_warm_start(tmp_path: Path) -> None:
    run = adapt(load_config("demo", ["--run.output", str(tmp_path / "demo")]))
    assert run is not None
    miou = json.loads((run.folder / "result.json").read_text())["miou"]
    assert miou["adapted"] >= miou["source"] + 8
    assert miou["adapted"] > miou["bn_warm_start"]
    assert (run.folder / "report.html").stat().st_size > 100_000
