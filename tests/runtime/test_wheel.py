"""The vehicle's own wheel, built from this repository and run in a clean environment without torch and onnx."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.tiny import labels_of, picture

ROOT = Path(__file__).parents[2]

PROBE = """
import importlib.util, json, sys
import numpy as np
from sfda_runtime import Segmenter
assert not [name for name in ("torch", "torchvision", "onnx", "sfda_engine") if importlib.util.find_spec(name)]
np.save(sys.argv[2], Segmenter.load(sys.argv[1])(np.load(sys.argv[3])).labels)
"""


def run(*command: object) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    # not from the checkout, whose packages `python -c` would find
    place = Path(str(command[0])).parent
    return subprocess.run([*map(str, command)], capture_output=True, text=True, env=clean, cwd=place)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has the wheel with its extra `cpu`, and nothing else."""
    home = tmp_path_factory.mktemp("vehicle")
    checkout = home / "export"
    shutil.copytree(ROOT / "export", checkout, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    venv.create(home / "venv", with_pip=True)
    binaries = home / "venv" / "bin"
    built = run(binaries / "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", home / "wheels", checkout)
    if built.returncode and "setuptools" in built.stderr:
        pytest.skip(f"no package registry to build the wheel with: {built.stderr.strip().splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    (wheel,) = (home / "wheels").iterdir()
    done = run(binaries / "pip", "install", "--quiet", f"{wheel}[cpu]")
    if done.returncode and "onnxruntime" in done.stderr:
        pytest.skip(f"onnxruntime cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return binaries


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the environment's layout is that of Linux and macOS")
def test_the_wheel_runs_without_torch_and_onnx(installed: Path, shared_bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "frame.npy", picture(1))
    done = run(installed / "python", "-c", PROBE, shared_bundle, tmp_path / "labels.npy", tmp_path / "frame.npy")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), labels_of(picture(1)))

    verified = run(installed / "sfda-infer", "verify", shared_bundle, "--json")
    assert json.loads(verified.stdout)["verdict"] == "verified", verified.stderr
    output = tmp_path / "out"
    written = run(installed / "sfda-infer", "run", shared_bundle, "synthetic:90x70@3", "-o", output, "--save", "index")
    assert written.returncode == 0, written.stderr
    assert len(list((output / "labels").glob("*.png"))) == 3
    refused = run(installed / "sfda-infer", "run", shared_bundle, "camera:0", "-o", tmp_path / "no")
    assert (refused.returncode, "sfda-runtime[camera]" in refused.stderr) == (2, True)
