"""`to_onnx --precision int8` as a user runs it, what it leaves, and what refuses a file that loses too much."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfda_export.latency import latency_card
from sfda_export.parity import ParityError
from sfda_export.precision import read_card
from sfda_export.reduce import check_drop
from sfda_export.to_onnx import main

FILES = ("model.onnx", "model_diag.onnx", "model_logits.onnx")


@pytest.fixture(scope="module")
def int8(run_folder: Path) -> Path:
    """The INT8 bundle of `run_folder` with all three graphs."""
    folder = run_folder.parent / "int8"
    assert main([str(run_folder), "--output", str(folder), "--logits", "--precision", "int8"]) == 0
    return folder


@pytest.mark.slow
def test_every_file_of_the_bundle_is_int8_and_accounted_for(int8: Path) -> None:
    manifest = json.loads((int8 / "manifest.json").read_text())
    assert manifest["card"]["precision"] == "int8"
    for name in FILES:
        assert read_card(int8 / name).precision == "int8"
        assert (int8 / name).stat().st_size < 0.8e6
        assert manifest["files"][name]["sha256"] == hashlib.sha256((int8 / name).read_bytes()).hexdigest()
    assert {path.name for path in int8.iterdir()} == {*FILES, "golden", "manifest.json"}
    assert (manifest["calibration"]["frames"], manifest["calibration"]["overexposed"]) == (32, 1)
    assert len(manifest["calibration"]["sha256"]) == 64


@pytest.mark.slow
def test_the_parity_card_tells_loss_and_latency(int8: Path) -> None:
    parity = json.loads((int8 / "manifest.json").read_text())["parity"]
    figures, limits = parity["logits"]["figures"], parity["logits"]["limits"]
    assert limits["noise_p50"] is None
    assert figures["miou"] > limits["miou"] > 0
    assert parity["miou"]["frames"] == 4
    assert -1.0 <= parity["miou"]["difference"] == parity["miou"]["onnx"] - parity["miou"]["engine"]
    assert list(parity["latency"]["ratio"]) == ["pytorch", "fp32", "int8"]


def test_latency_is_taken_in_turns_and_told_as_ratios_to_the_first() -> None:
    order: list[str] = []
    frames = np.zeros((1, 2, 3, 3), np.uint8)
    card = latency_card({name: lambda _, name=name: order.append(name) for name in ("a", "b")}, frames)  # type: ignore[misc]
    assert order == ["a", "b"] * (len(order) // 2)
    assert card["shape"] == [1, 2, 3, 3]
    assert card["ratio"]["a"] == 1.0
    assert card["ms"].keys() == {"a", "b"}


@pytest.mark.parametrize("difference", [-1.01, math.nan])
def test_a_drop_of_more_than_a_point_is_refused(difference: float) -> None:
    with pytest.raises(ParityError, match=r"on 7 .* 1"):
        check_drop({"difference": difference, "frames": 7}, "int8")


@pytest.mark.parametrize("miou", [None, {"difference": -0.99, "frames": 7}, {"difference": 2.0, "frames": 7}])
def test_a_drop_below_it_passes(miou: dict[str, Any] | None) -> None:
    check_drop(miou, "int8")
