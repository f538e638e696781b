"""What adaptation starts from is found again to the bit, and made again where it is damaged."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from sfda_engine.adapt import main
from sfda_engine.config.schema import Config
from sfda_engine.data.folder import list_images
from sfda_engine.data.frame_files import FrameFiles
from sfda_engine.data.images import ImageSize
from sfda_engine.exit_codes import exit_code
from sfda_engine.judge.choice import Choice, ViewScore
from sfda_engine.method.pseudo_labels import PseudoLabelled
from sfda_engine.pipelines.networks import load_segmenter
from sfda_engine.run_folder.start import Start, find_start, load_start, save_start
from sfda_engine.views.probabilities import Predictions
from sfda_engine.views.view import View
from tests.engine.run_folder.killing import leavings


@pytest.fixture
def labelled(night_frames: Path) -> PseudoLabelled:
    """Labels of any value for six frames, whose own sizes differ."""
    generator = torch.Generator().manual_seed(5)
    pixels = [torch.randint(0, 256, (4, 6), dtype=torch.uint8, generator=generator).numpy() for _ in range(6)]
    sizes = [(32 + index, 32) for index in range(6)]
    return PseudoLabelled(FrameFiles(list_images(night_frames)), [Image.fromarray(each) for each in pixels], sizes)


@pytest.fixture
def start() -> Start:
    """A choice among two views whose opinions know nothing of one, and what both say of three frames."""
    views = (View("gamma", ImageSize(32, 24), 0.3), View("none", ImageSize(40, 32), 1.0))
    nan = math.nan
    scores = tuple(
        ViewScore(view, 0.25, nan, 0.5, 1.0, total, 0.0) for view, total in zip(views, (2.0, -1.0), strict=True)
    )
    choice = Choice(views[0], views[1], View("none", ImageSize(32, 24), 1.0), ("exposure", "share"), views, scores)
    draw = torch.Generator().manual_seed(7)
    labels, confidence = torch.randint(0, 9, (2, 2, 3, 4, 5), dtype=torch.uint8, generator=draw)
    return Start(choice, Predictions(views, 9, labels, confidence))


def labels_of(labelled: PseudoLabelled) -> list[Image.Image]:
    return [labelled.label(index) for index in range(len(labelled))]


def same_beside_labels(one: Start, other: Start) -> bool:
    """Whether two starts have the same choice and witnesses; NaN is itself."""
    tensors = [(getattr(one.witnesses, name), getattr(other.witnesses, name)) for name in ("labels", "confidence")]
    return (
        repr(one.choice) == repr(other.choice)
        and one.witnesses.views == other.witnesses.views
        and all(torch.equal(mine, theirs) for mine, theirs in tensors)
    )


def test_student_and_labels_are_found_to_the_bit(
    tiny: Callable[..., Config], labelled: PseudoLabelled, start: Start, tmp_path: Path
) -> None:
    model, info = load_segmenter(tiny().model)
    wanted = {key: value.clone() for key, value in model.state_dict().items()}
    save_start(tmp_path, model, info, replace(start, pseudo_labelled=labelled))
    with torch.no_grad():
        for value in model.state_dict().values():
            value.zero_()
    folder = find_start(tmp_path)
    assert folder is not None
    found = load_start(folder, model, labelled.images)
    read = found.pseudo_labelled
    assert same_beside_labels(found, start)
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())
    assert read is not None
    assert read.sizes == labelled.sizes
    assert [(each.mode, each.tobytes()) for each in labels_of(read)] == [
        ("L", each.tobytes()) for each in labels_of(labelled)
    ]
    assert read.label(3).size == (35, 32)


def test_without_pseudo_labels_there_are_none(
    tiny: Callable[..., Config], labelled: PseudoLabelled, start: Start, tmp_path: Path
) -> None:
    assert find_start(tmp_path) is None
    model, info = load_segmenter(tiny().model)
    save_start(tmp_path, model, info, start)
    found = load_start(tmp_path / "start", model, labelled.images)
    assert found.pseudo_labelled is None
    assert same_beside_labels(found, start)


@pytest.mark.parametrize("file", ["start.safetensors", "choice.json", "witnesses.safetensors", "pseudo_labels.zip"])
def test_damaged_start_is_made_again(
    file: str, tiny_yaml: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, quick: None
) -> None:
    """As a kill in the warm-up would leave it, but for one flipped bit: no checkpoint, no result."""
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    argv = ["--config", str(tiny_yaml), "--method.pseudo_label_weight", "1", "--run.checkpoint_every", "9"]
    for folder in (whole, halves):
        assert exit_code(main, [*argv, "--run.output", str(folder)]) == 0
    for folder in (halves / "checkpoints").iterdir():
        folder.rename(folder.with_name(f".partial-{folder.name}"))
    (halves / "result.json").unlink()
    content = bytearray((halves / "start" / file).read_bytes())
    content[len(content) // 2] ^= 1
    (halves / "start" / file).write_bytes(content)
    assert exit_code(main, [*argv, "--run.output", str(halves), "--run.resume", "true"]) == 0
    assert f"start is damaged ({file} differs from its sha256); it is made again" in caplog.text
    assert leavings(halves) == leavings(whole)
