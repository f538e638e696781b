"""Source training: it learns, says what it made, resumes, and checks everything before it writes anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sfda_engine import evaluate
from sfda_engine.config.loader import load_config
from sfda_engine.config.schema import Config
from sfda_engine.data.classes import class_set
from sfda_engine.exit_codes import exit_code
from sfda_engine.models.weights import read_weights
from sfda_engine.pipelines.source_training import segmentation_loss, train_source
from sfda_engine.train_source import main
from sfda_engine.training.metrics import read_metrics


def test_learns_and_describes_itself(source_weights: Path) -> None:
    lines = read_metrics(source_weights.parent / "metrics.jsonl")
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 50, 60]
    assert lines[-1]["source/cross_entropy"] < 0.8 * lines[0]["source/cross_entropy"]
    assert lines[0]["lr"] == pytest.approx(0.05 * (1 - 10 / 60) ** 0.9)
    _, info = read_weights(source_weights)
    assert info is not None
    assert (info.arch, info.feature_layer, info.num_classes) == ("sfda_toy:segmenter", "encoder", 9)
    assert (info.class_names, info.palette) == (class_set("scenes").names, class_set("scenes").palette)
    assert (info.size, info.method, info.source_sha256) == ((32, 32), "train_source", None)


def closed_form(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over labelled pixels of -log softmax at the label, in float64."""
    log_p = logits.double() - logits.double().exp().sum(1, keepdim=True).log()
    kept = labels != 255
    picked = log_p.gather(1, labels.clamp(max=logits.shape[1] - 1)[:, None])[:, 0]
    return -picked[kept].mean()


def test_loss_ignores_255() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 6, 5), torch.randint(0, 4, (2, 6, 5))
    labels[0, :3] = 255
    torch.testing.assert_close(segmentation_loss(logits, labels).double(), closed_form(logits, labels))


def test_loss_is_taken_at_the_size_of_the_labels() -> None:
    logits, labels = torch.randn(1, 3, 1, 1), torch.randint(0, 3, (1, 8, 4))
    expected = closed_form(logits.expand(1, 3, 8, 4), labels)  # one position, upsampled, is constant
    torch.testing.assert_close(segmentation_loss(logits, labels).double(), expected, rtol=1e-5, atol=1e-6)


def test_validation_scores_are_those_of_evaluate(
    source_config: Path, night_frames: Path, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    overrides = ["--run.output", str(tmp_path / "source"), "--run.steps", "8", "--source.val_root", str(night_frames)]
    folder = train_source(load_config(source_config, overrides))
    written = json.loads((folder / "evaluation.json").read_text())
    weights = str(folder / "source.safetensors")
    scores = evaluate(tiny("--evaluate.root", str(night_frames), "--model.weights", weights, "--run.output", "null"))
    assert written["miou"] == scores.own_size.miou
    assert written["iou"] == scores.own_size.iou
    assert written["evaluated_frames"] == 6


def test_resumed_training_is_bit_equal(source_config: Path, source_weights: Path, tmp_path: Path) -> None:
    """The checkpoint of step 40 alone, as a kill would leave it, leads to the weights of the whole run."""
    run = tmp_path / "run"
    argv = ["--config", str(source_config), "--run.output", str(run)]
    assert exit_code(main, argv) == 0
    assert (run / "source.safetensors").read_bytes() == source_weights.read_bytes()
    (run / "source.safetensors").unlink()
    newest = sorted((run / "checkpoints").iterdir())[-1]
    assert newest.name == "0000060"
    newest.rename(newest.with_name(".partial-0000060"))
    assert exit_code(main, [*argv, "--run.resume", "true"]) == 0
    assert (run / "source.safetensors").read_bytes() == source_weights.read_bytes()
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl")] == [10, 20, 30, 40, 50, 60]


def test_what_adaptation_alone_reads_may_differ_in_a_resumed_training(
    source_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--config", str(source_config), "--run.output", str(tmp_path / "run"), "--run.steps", "2"]
    assert exit_code(main, argv) == 0
    other = ["--run.resume", "true", "--method.gamma", "0.5"]
    assert exit_code(main, [*argv, *other, "--source.lr", "1.5"]) == 2
    assert "source.lr" in (told := capsys.readouterr().err)
    assert "method" not in told
    assert exit_code(main, [*argv, *other]) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--source.root", "nowhere"], "nowhere"),
        (["--source.root", "null"], "source.root is null"),
        (["--source.val_root", "nowhere"], "nowhere"),
        (["--model.arch", "null"], "model.arch"),
        (["--model.arch", "resnext", "--model.feature_layer", "null"], "unknown model.arch 'resnext'"),
        (["--model.classes", "null"], "model.classes"),
        (["--model.classes", "camvid", "--model.num_classes", "9"], "contradicts"),
        (["--model.backbone_weights", "no.pth"], "ImageNet"),
        (["--source.batch_size", "1"], "source.batch_size is 1"),
        (["--source.scale", "[2, 1]"], "source.augment"),
    ],
)
def test_mistake_leaves_no_trace(
    options: list[str],
    words: str,
    source_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(main, ["--config", str(source_config), "--run.output", "run", *options]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert words in printed
    assert list(tmp_path.iterdir()) == []


def test_label_out_of_range_is_named(
    source_config: Path, day_frames: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model.classes", "null", "--model.num_classes", "3", "--run.output", str(tmp_path / "run")]
    assert exit_code(main, ["--config", str(source_config), *options]) == 2
    assert "has 3 classes" in capsys.readouterr().err
