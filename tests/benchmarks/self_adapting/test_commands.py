"""The benchmark of self-adapting models, on the runtime's tiny network instead of exported ones."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.common.row import read_rows
from benchmarks.self_adapting.score import score
from benchmarks.self_adapting.streams import DOMAINS, scene_streams
from sfda_engine.config.loader import resolve_weights
from sfda_engine.exit_codes import exit_code
from tests.runtime.tiny import SIZE, picture
from tests.runtime.tiny_adaptive import START_MEAN, START_VAR, adaptive_labels, write_adaptive_bundle

command = importlib.import_module("benchmarks.self_adapting.__main__")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Dim frames, labelled by the tiny network on their brighter selves: what adaptation has to find again."""
    for kind in ("images", "labels"):
        (tmp_path / "street" / kind).mkdir(parents=True)
    for seed in range(4):
        frame = picture(seed)
        label = adaptive_labels(frame, START_MEAN, START_VAR)
        tinted = (frame * [0.3, 0.6, 1.0]).astype(np.uint8)
        Image.fromarray(tinted).save(tmp_path / "street" / "images" / f"{seed}.png")
        Image.fromarray(label).save(tmp_path / "street" / "labels" / f"{seed}.png")
    return tmp_path / "street"


def test_scores_and_latency_of_every_model(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_adaptive_bundle(tmp_path / "bundle")
    stream = [(picture(seed), adaptive_labels(picture(seed), START_MEAN, START_VAR)) for seed in range(4)]
    exported: list[tuple[str, str]] = []
    monkeypatch.setattr(command, "export_bundle", lambda w, f, frames: exported.append((w, frames)) or bundle)
    monkeypatch.setattr(command, "scene_streams", lambda count, size: {"day": stream, "night": stream})
    weights = str(resolve_weights(command.DEMO))
    arguments = ["--data", str(data), "--source", weights, "--adapted", weights, "--demo-adapted", weights]
    scores = command.main([*arguments, "--quick", "--output", str(tmp_path / "results")])
    assert exported[0] == (command.DEMO, "scenes:night")
    assert [frames for _, frames in exported] == ["scenes:night", *[str(data)] * 3, "scenes:night"]
    assert exported[2][0].endswith("source_gamma.safetensors")
    found = {(one.stream, one.model, one.normalize): one for one in scores}
    for model in ("source", "source, exposure gamma", "adapted"):
        assert found["street", model, 0.3].miou > found["street", model, None].miou + 5
    for name in ("day", "night"):
        for model in ("demo_source", "demo, adapted"):
            assert found[name, model, 0.3 if "adapted" in model else 0.0].miou > found[name, model, None].miou
    with (tmp_path / "results" / "self_adapting_scores.csv").open() as file:
        assert [float(line["miou"]) for line in csv.DictReader(file)] == [one.miou for one in scores]
    table = (tmp_path / "results" / "self_adapting_scores.md").read_text()
    assert all(f" {one.miou:.1f} |" in table for one in scores)
    rows = read_rows(tmp_path / "results" / "self_adapting_cpu.csv")
    assert [row.provider for row in rows] == ["labels", "diagnostics", "adaptive"]
    assert all(row.p50_ms for row in rows)


def test_the_changing_stream_goes_through_all_domains() -> None:
    streams = scene_streams(4, SIZE)
    assert [len(stream) for stream in streams.values()] == [4, 4, 4, 4, 8]
    firsts = [streams["changing"][2 * i][0] for i in range(4)]
    for first, domain in zip(firsts, DOMAINS, strict=True):
        np.testing.assert_array_equal(first, streams[domain][0][0])


def test_the_second_half_is_scored_alone(tmp_path: Path) -> None:
    right = adaptive_labels(picture(0), START_MEAN, START_VAR)
    wrong = (right + 1) % 4
    frames = [(picture(0), wrong), (picture(0), right)]
    one = score(write_adaptive_bundle(tmp_path / "bundle"), "m", "s", frames, (0.0, 0.0))
    assert one.miou_second_half == 100
    assert one.miou < 60


def test_files_that_are_missing_are_told_before_any_work(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "export_bundle", lambda *arguments: pytest.fail("work before the check"))
    weights = str(resolve_weights(command.DEMO))
    good = {"--data": str(data), "--source": weights, "--adapted": weights}
    for option in good:
        argv = [word for pair in (good | {option: "nowhere"}).items() for word in pair]
        assert exit_code(command.command, argv) == 2
        assert capsys.readouterr().err.startswith(f"error: {option}: there is no ")
    (data / "labels" / "3.png").unlink()
    assert exit_code(command.command, [word for pair in good.items() for word in pair]) == 2
    assert "first: 3.png" in capsys.readouterr().err
