"""No time for a provider with other labels; ratios are those of the medians. The command itself: test_commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import inference
from benchmarks.common.row import Row
from benchmarks.inference import FP32_ALLOWED, Network, Provider, error_of, load, measure, ratios
from sfda_engine.data.scenes.render import render_scene
from sfda_export.graph import DeployGraph
from sfda_export.latency import eager

FRAMES = [render_scene("day", seed, (64, 32)).image[None] for seed in range(2)]


def test_a_provider_with_other_labels_is_refused_and_the_right_one_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def providers(graph: DeployGraph, *arguments: Any, **options: Any) -> dict[str, Provider]:
        right = eager(graph)

        def wrong(frames: Any) -> Any:
            labels = right(frames).copy()
            labels[:, :1, :8] += 1  # 8 pixels of 2048
            return labels

        return {name: Provider(run, FP32_ALLOWED) for name, run in {"wrong": wrong, "right": right}.items()}

    monkeypatch.setattr(inference, "providers", providers)
    wrong, right = measure(Network("streetnet"), FRAMES, seconds=0.0, compiled=False)
    assert wrong.p20_ms is wrong.p50_ms is wrong.p80_ms is wrong.images_per_second is None
    assert wrong.note == "wrong: 3.9e-03 of the labels over 1e-03, not timed"
    assert right.p50_ms is not None
    assert right.images_per_second == pytest.approx(1e3 / right.p50_ms)
    assert (right.max_error, right.note) == (0.0, "")


def test_the_error_is_the_share_of_other_labels_over_all_frames() -> None:
    frames = [np.zeros((1, 2, 2, 3), np.uint8), np.ones((1, 2, 2, 3), np.uint8)]
    truth = [np.zeros((1, 2, 2), np.int64), np.array([[[1, 1], [0, 1]]])]
    assert error_of(lambda frame: frame[..., 0], frames, truth) == 1 / 8


def test_ratios_are_to_both_baselines_of_the_same_network() -> None:
    times = {"eager fp32": 12.0, "torch.compile fp32": 9.0, "onnxruntime fp32": 6.0, "onnxruntime INT8": 3.0}
    rows = [
        Row(op="inference", provider=provider, direction="frame to labels", shape=shape, dtype="uint8", p50_ms=p50)
        for shape, factor in (("a", 1.0), ("b", 10.0))
        for provider, time in times.items()
        for p50 in [time * factor]
    ]
    lines = ratios(rows)
    assert lines[0] == "a, onnxruntime fp32: 2.00x the speed of eager fp32, 1.50x the speed of torch.compile fp32"
    assert lines[3] == "b, onnxruntime INT8: 4.00x the speed of eager fp32, 3.00x the speed of torch.compile fp32"
    assert len(lines) == 4


@pytest.mark.parametrize("network", inference.NETWORKS[1:3])
def test_networks_without_shipped_weights_have_statistics_that_fit(network: Network) -> None:
    """Activations neither die nor explode, so that labels are several classes and not one."""
    frames = [render_scene("day", seed, (128, 64)).image[None] for seed in range(2)]
    model, info = load(network, frames)
    labels = eager(DeployGraph(model, info.normalization, info.exposure, "labels"))(frames[0])
    assert labels.shape == (1, 64, 128)
    assert len(np.unique(labels)) > 2
    assert info.exposure == network.exposure


def test_results_of_an_earlier_network_stay_on_disk(tmp_path: Path) -> None:
    row = Row(op="inference", provider="eager fp32", direction="frame to labels", shape="a", dtype="uint8", p50_ms=2.0)
    inference.write_results(tmp_path / "inference_cpu", [row])
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".md", ".png"}
