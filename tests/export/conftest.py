"""A finished run of the shipped demo model, without the training, and its bundle."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from sfda_engine.config.loader import load_config, resolve_weights, save_config
from sfda_engine.exit_codes import exit_code
from sfda_engine.models.weights import build_from_weights, save_weights
from sfda_export import to_onnx

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves that the exporter reads; the "adapted" model is the trained one of the demo, with exposure."""
    folder = tmp_path_factory.mktemp("run")
    overrides = ["--target.frames", "8", "--evaluate.frames", "4"]
    save_config(load_config("demo", overrides), folder / "config.yaml")
    source = resolve_weights("package:demo_source")
    model, info = build_from_weights(source)
    save_weights(folder / "adapted.safetensors", model, replace(info, exposure="gamma", method="sfda paper"))
    (folder / "result.json").write_text(json.dumps({"verdict": "adapted", "verdict_basis": "not judged"}))
    return folder


@pytest.fixture(scope="session")
def bundle(run_folder: Path) -> Path:
    """The bundle of `run_folder` with all three graphs."""
    folder = run_folder.parent / "bundle"
    code = exit_code(to_onnx.main, [str(run_folder), "--output", str(folder), "--logits"])
    assert code == 0
    return folder


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment of a fresh process that finds the packages of this repository and its tests."""
    path = os.pathsep.join(map(str, [ROOT, ROOT / "kernels", ROOT / "export"]))
    return os.environ | {"PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"}
