"""A whole run: what it leaves, that it can be repeated, that its numbers are those of the files it ships."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

import sfda_engine
from sfda_engine import adapt, evaluate
from sfda_engine.config.loader import load_config
from sfda_engine.config.schema import Config
from sfda_engine.data.folder import list_images
from sfda_engine.data.frame_files import FrameFiles
from sfda_engine.data.images import to_float_tensor
from sfda_engine.models.preprocess import Normalization, gamma_exposure
from sfda_engine.models.weights import read_weights


def strict_json(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


def numbers(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what a clock decides."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def test_run_folder_is_the_contract(
    tiny: Callable[..., Config], night_frames: Path, source_weights: Path, tmp_path: Path
) -> None:
    config = tiny("--evaluate.root", str(night_frames), "--run.log_with", "tensorboard", "--model.exposure", "gamma")
    done = adapt(config)
    run = tmp_path / "run"
    assert done is not None
    assert done.folder == run
    assert {path.name for path in run.iterdir()} == {
        *("adapted.safetensors", "bn_warm_start.safetensors", "last.safetensors", "start.safetensors"),
        *("checkpoints", "config.yaml"),
        *("audit.jsonl", "frames.json", "manifest.json"),
        *("figures", "metrics.jsonl", "origin.json", "report.html", "result.json", "start", "tensorboard"),
    }
    assert list((run / "tensorboard").rglob("events.out.tfevents.*"))
    assert load_config(run / "config.yaml") == config
    _, info = read_weights(run / "adapted.safetensors")
    assert info is not None
    assert info.source_sha256 == hashlib.sha256(source_weights.read_bytes()).hexdigest()
    result = strict_json(run / "result.json")
    assert (info.method, info.exposure, info.size) == ("sfda paper", result["exposure"], (32, 32))
    assert (info.arch, info.feature_layer) == ("sfda_toy:segmenter", "encoder")

    assert result == done.result
    assert result["verdict"] in ("adapted", "keep_start", "keep_source")
    assert set(result["selection"]["scores"]) == {"source", "start", "1", "3"}
    assert result["steps"] == 3
    assert list(result["miou"]) == ["source", "bn_warm_start", "start", "adapted", "last"]
    assert result["evaluated_frames"] == 6

    page = (run / "report.html").read_text()
    assert "Judged without labels" in page
    assert not any(link in page for link in ('src="http', 'href="http', 'src="figures'))

    # the scores are those of the files as shipped, read again by the other command
    for name, weights in {"source": source_weights, "adapted": run / "adapted.safetensors"}.items():
        scores = evaluate(tiny("--evaluate.root", str(night_frames), "--model.weights", str(weights)))
        assert scores.own_size.miou == result["miou"][name]
        assert scores.own_size.iou == result["iou"][name]


def test_bn_warm_start_is_the_source_with_statistics_of_the_target(
    tiny: Callable[..., Config], night_frames: Path, source_weights: Path, tmp_path: Path, quick: None
) -> None:
    """First layer against float64: two passes over the frames average what one batch of all frames measures."""
    adapt(tiny("--run.steps", "1", "--model.exposure", "gamma"))
    source, warm = load_file(source_weights), load_file(tmp_path / "run" / "bn_warm_start.safetensors")
    statistics = {key for key in source if key.rpartition(".")[2] in ("running_mean", "running_var")}
    counters = {key for key in source if key.endswith("num_batches_tracked")}
    for key in source.keys() - statistics - counters:
        assert torch.equal(source[key], warm[key])
    assert all(not torch.equal(source[key], warm[key]) for key in statistics)

    frames = FrameFiles(list_images(night_frames))
    images = gamma_exposure(torch.stack([to_float_tensor(frames.image(index)) for index in range(len(frames))]))
    norm = Normalization()
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (norm.mean, norm.std))
    maps = functional.conv2d((images.double() - mean) / std, source["encoder.0.weight"].double(), stride=2, padding=1)
    torch.testing.assert_close(warm["encoder.1.running_mean"].double(), maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_same_seed_same_numbers_other_seed_others(tiny: Callable[..., Config], tmp_path: Path, quick: None) -> None:
    folders = {name: tmp_path / name for name in ("one", "again", "other")}
    for name, folder in folders.items():
        torch.rand(3)  # what happened before in this process must not matter
        adapt(tiny("--run.output", str(folder), "--run.seed", "1" if name == "other" else "0"))
    one, again, other = folders.values()
    assert numbers(one) == numbers(again) != numbers(other)
    weights = [
        [(folder / name).read_bytes() for folder in folders.values()]
        for name in ("last.safetensors", "start.safetensors", "bn_warm_start.safetensors")
    ]
    last, *starts = weights
    assert last[0] == last[1] != last[2]
    assert all(one == again == other for one, again, other in starts)  # nothing is drawn before the first step


def test_without_labels_there_are_no_scores(tiny: Callable[..., Config], tmp_path: Path, quick: None) -> None:
    adapt(tiny())
    result = strict_json(tmp_path / "run" / "result.json")
    assert not {"miou", "iou", "evaluated_frames"} & result.keys()


def test_literal_says_what_is_known_to_break(
    tiny: Callable[..., Config], quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    done = adapt(tiny("--method.terms", "printed"))
    assert done is not None
    assert done.result["warnings"][0].startswith("method.terms:")  # those of the intake follow
    assert "method.terms" in caplog.text


def test_api_is_functions_even_where_the_commands_were_imported() -> None:
    for name in ("adapt", "evaluate", "config.loader"):
        importlib.import_module(f"sfda_engine.{name}")
    for name in sfda_engine.__all__:
        assert callable(getattr(sfda_engine, name))
        assert getattr(sfda_engine, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'adept'"):
        _ = sfda_engine.adept  # type: ignore[attr-defined]
