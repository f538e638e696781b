"""A run goes on with the configuration and the inputs that began it; the keys that differ are named."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from sfda_engine.build import make_accelerator
from sfda_engine.config import Config
from sfda_engine.config_loader import save_config
from sfda_engine.config_schema import KEYS
from sfda_engine.data.folder import list_images
from sfda_engine.data.frame_files import FrameFiles
from sfda_engine.errors import UserError
from sfda_engine.pseudo_labels import PseudoLabelled, load_labels, save_labels
from sfda_engine.start import Origin, load_start, origin_of, save_start
from sfda_engine.unchanged import FREE, check_unchanged

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
        check_unchanged(tiny(*options), tmp_path, ADAPT)
    assert words in str(caught.value)
    assert "began with another configuration" in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        ["--run.output", "elsewhere", "--run.resume", "true", "--run.keep_last", "7", "--run.export", "true"],
        ["--run.log_with", "tensorboard", "--target.num_workers", "2"],
        ["--evaluate.root", "labelled", "--evaluate.subset", "[road]"],
        ["--source.root", "elsewhere", "--source.lr", "1"],
        ["--model.weights", "moved.safetensors"],
    ],
)
def test_what_cannot_change_the_weights_may_differ(
    options: list[str], tiny: Callable[..., Config], tmp_path: Path
) -> None:
    save_config(tiny(), tmp_path / "config.yaml")
    check_unchanged(tiny(*options), tmp_path, ADAPT)


def test_nothing_to_compare_with(tiny: Callable[..., Config], tmp_path: Path) -> None:
    check_unchanged(tiny("--run.seed", "1"), tmp_path, ADAPT)


def test_free_keys_are_keys() -> None:
    assert KEYS.keys() >= FREE


@pytest.fixture
def origin(tiny: Callable[..., Config], night_frames: Path) -> Origin:
    return origin_of(make_accelerator(tiny(), None), FrameFiles(list_images(night_frames)), "abc")


def test_origin_tells_frames_and_weights(origin: Origin) -> None:
    assert (origin.frames, origin.weights_sha256, origin.mixed_precision, origin.processes) == (6, "abc", "no", 1)


@pytest.mark.parametrize(
    "other",
    [{"weights_sha256": "abd"}, {"frames": 7}, {"frame_names_sha256": "0"}, {"mixed_precision": "bf16"}],
)
def test_other_inputs_are_named(other: dict[str, str | int], origin: Origin, tmp_path: Path) -> None:
    save_start(tmp_path, origin)
    assert load_start(tmp_path, origin) == tmp_path / "start"
    key, value = next(iter(other.items()))
    with pytest.raises(UserError, match=rf"other inputs \({key} was {getattr(origin, key)}, is {value}\)"):
        load_start(tmp_path, Origin(**(vars(origin) | other)))


def test_other_number_of_processes_is_a_warning(
    origin: Origin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_start(tmp_path, origin)
    assert load_start(tmp_path, Origin(**(vars(origin) | {"processes": 2})))
    assert "began with 1 processes and goes on with 2" in caplog.text


def test_damaged_start_is_made_again(origin: Origin, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_start(tmp_path, origin) is None
    assert caplog.records == []
    save_start(tmp_path, origin)
    (tmp_path / "start" / "origin.json").write_text(json.dumps(vars(origin) | {"frames": 5}))
    with caplog.at_level(logging.WARNING):
        assert load_start(tmp_path, origin) is None
    assert "start is damaged (origin.json" in caplog.text


def test_pseudo_labels_are_read_back_to_the_bit(night_frames: Path, tmp_path: Path) -> None:
    images = FrameFiles(list_images(night_frames))
    generator = torch.Generator().manual_seed(5)
    pixels = [torch.randint(0, 256, (4, 6), dtype=torch.uint8, generator=generator).numpy() for _ in range(6)]
    sizes = [(32 + index, 32) for index in range(6)]
    save_labels(tmp_path / "labels.zip", PseudoLabelled(images, [Image.fromarray(each) for each in pixels], sizes))
    read = load_labels(tmp_path / "labels.zip", images)
    assert read.sizes == sizes
    assert [(label.mode, label.tobytes()) for label in read.labels] == [("L", each.tobytes()) for each in pixels]
    assert read.label(3).size == (35, 32)
