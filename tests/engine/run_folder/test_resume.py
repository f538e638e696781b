"""A run goes on with the configuration and the inputs that began it; the keys that differ are named."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfda_engine.config.keys import KEYS
from sfda_engine.config.loader import save_config
from sfda_engine.config.schema import Config
from sfda_engine.data.folder import list_images
from sfda_engine.data.frame_files import FrameFiles
from sfda_engine.errors import UserError
from sfda_engine.files import write_json
from sfda_engine.pipelines.inputs import accelerator_for
from sfda_engine.run_folder.resume import FREE, begin, check_config, check_origin, origin_of

ADAPT = ("run", "model", "target", "method")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--run.seed", "1"], "run.seed was 0, is 1"),
        (["--method.lr", "1e-3"], "method.lr was 0.00025, is 0.001"),
        (["--run.steps", "1"], "run.steps was 3, is 1"),
        (["--run.log_every", "2"], "run.log_every was 1, is 2"),
        (["--run.mixed_precision", "bf16"], 'run.mixed_precision was null, is "bf16"'),
        (["--target.size", "[64, 32]"], "target.size was [32, 32], is [64, 32]"),
        (["--model.normalization.mean", "[0, 0, 0]"], "model.normalization.mean was null, is [0.0, 0.0, 0.0]"),
        (["--method.preset", "literal"], "method.preset was"),
        (["--run.seed", "1", "--run.epochs", "2"], "run.seed was 0, is 1; run.epochs was null, is 2"),
    ],
)
def test_other_values_are_named(options: list[str], words: str, tiny: Callable[..., Config], tmp_path: Path) -> None:
    save_config(tiny(), tmp_path / "config.yaml")
    with pytest.raises(UserError) as caught:
        check_config(tiny(*options), tmp_path, ADAPT)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        ["--run.output", "elsewhere", "--run.resume", "true", "--run.keep_last", "7", "--run.export", "true"],
        ["--run.log_with", "tensorboard", "--run.num_workers", "2"],
        ["--evaluate.root", "labelled", "--evaluate.subset", "[road]"],
        ["--source.root", "elsewhere", "--source.lr", "1"],
        ["--model.weights", "moved.safetensors"],
    ],
)
def test_what_cannot_change_the_weights_may_differ(
    options: list[str], tiny: Callable[..., Config], tmp_path: Path
) -> None:
    save_config(tiny(), tmp_path / "config.yaml")
    check_config(tiny(*options), tmp_path, ADAPT)


def test_nothing_to_compare_with(tiny: Callable[..., Config], tmp_path: Path) -> None:
    check_config(tiny("--run.seed", "1"), tmp_path, ADAPT)


def test_free_keys_are_keys() -> None:
    assert KEYS.keys() >= FREE


@pytest.fixture
def origin(tiny: Callable[..., Config], night_frames: Path) -> dict[str, Any]:
    return origin_of(accelerator_for(tiny(), None), FrameFiles(list_images(night_frames)), "abc")


def test_origin_tells_frames_and_weights(origin: dict[str, Any]) -> None:
    names = "\n".join(f"night_{seed}" for seed in range(6))
    assert origin == {
        "weights_sha256": "abc",
        "frames": 6,
        "frame_names_sha256": hashlib.sha256(names.encode()).hexdigest(),
        "mixed_precision": "no",
        "processes": 1,
    }


@pytest.mark.parametrize(
    "other",
    [{"weights_sha256": "abd"}, {"frames": 7}, {"frame_names_sha256": "0"}, {"mixed_precision": "bf16"}],
)
def test_other_inputs_are_named(other: dict[str, Any], origin: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "origin.json", origin)
    check_origin(origin, tmp_path)
    key, value = next(iter(other.items()))
    with pytest.raises(UserError, match=rf"other inputs \({key} was {origin[key]}, is {value}\)"):
        check_origin(origin | other, tmp_path)


def test_other_number_of_processes_is_a_warning(
    origin: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_json(tmp_path / "origin.json", origin)
    check_origin(origin | {"processes": 2}, tmp_path)
    assert re.search(r"1, .* 2 processes", caplog.text)


@pytest.mark.parametrize("content", ["", "[]", "{}", "3"])
def test_damaged_origin_is_named(content: str, origin: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "origin.json").write_text(content)
    with pytest.raises(UserError, match=r"origin.json"):
        check_origin(origin, tmp_path)


def test_refusal_writes_nothing(tiny: Callable[..., Config], origin: dict[str, Any], tmp_path: Path) -> None:
    accelerator, partial = accelerator_for(tiny(), None), tmp_path / ".result.json.1.partial"
    begin(tiny(), accelerator, tmp_path, ADAPT, origin)
    partial.write_text("half")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for config, facts in ((tiny("--run.seed", "1"), origin), (tiny(), origin | {"frames": 7})):
        resumed = replace(config, run=replace(config.run, resume=True))
        with pytest.raises(UserError, match="began with"):
            begin(resumed, accelerator, tmp_path, ADAPT, facts)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    begin(tiny("--run.resume", "true"), accelerator, tmp_path, ADAPT, origin)
    assert not partial.exists()
