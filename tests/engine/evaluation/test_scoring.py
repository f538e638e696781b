"""Scores against counts by hand in float64, against torchmetrics, and against a model that knows the answer."""

from __future__ import annotations

import io
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from sfda_engine import evaluate
from sfda_engine.config.schema import Config
from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.evaluate import main
from sfda_engine.evaluation.scores import Evaluation, as_json, print_scores, scores_of, scoring_failed
from sfda_engine.evaluation.scoring import evaluate_images
from sfda_engine.models.preprocess import Normalization
from sfda_engine.models.segmenter import SegmenterOutput
from sfda_engine.models.weights import WeightsInfo, build_from_weights, save_weights
from sfda_engine.pipelines.inputs import accelerator_for

CLASSES = 4
NAMES = ("road", "car", "sky", "pole")
IGNORE = 255
SIZE = ImageSize(16, 12)  # width, height that the model sees
INFO = WeightsInfo(arch="none", num_classes=CLASSES, class_names=NAMES, normalization=Normalization((0,) * 3, (1,) * 3))


class Frames:
    """Frames of one gray value, their index, so that a model can look its answer up; labels of many sizes."""

    def __init__(self, labels: list[np.ndarray]) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return str(index)

    def image(self, index: int) -> Image.Image:
        return Image.new("RGB", (20, 20), (index,) * 3)

    def label(self, index: int) -> Image.Image:
        return Image.fromarray(self.labels[index])


class Lookup(nn.Module):
    """Logits of the frame whose index is the gray value of the image."""

    table: Tensor

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", logits)

    def forward(self, images: Tensor) -> SegmenterOutput:
        assert images.shape[-2:] == (SIZE[1], SIZE[0])
        logits = self.table[(images[:, 0, 0, 0] * 255).round().long()]
        return SegmenterOutput(logits, logits)


def run(
    model: nn.Module, labels: list[np.ndarray], subset: tuple[str, ...] | None = None, *, as_deployed: bool = False
) -> Evaluation:
    accelerator = accelerator_for(Config(), None)
    return evaluate_images(model, INFO, Frames(labels), SIZE, accelerator, subset, as_deployed=as_deployed)


def random_labels(rng: np.random.Generator, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    ids = np.array([*range(CLASSES), IGNORE], np.uint8)
    return [rng.choice(ids, size=size, p=[0.4, 0.3, 0.15, 0.05, 0.1]) for size in sizes]


def bilinear(size: int, to_size: int) -> np.ndarray:
    """Weights (to_size, size) of linear interpolation between pixel centers, borders repeated; float64."""
    positions = ((np.arange(to_size) + 0.5) * size / to_size - 0.5).clip(0, size - 1)
    return np.maximum(0, 1 - np.abs(positions[:, None] - np.arange(size)))


def predict(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = bilinear(logits.shape[1], height), bilinear(logits.shape[2], width)
    return (rows @ logits @ columns.T).argmax(0)


def nearest(label: np.ndarray, height: int, width: int) -> np.ndarray:
    rows = ((np.arange(height) + 0.5) * label.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * label.shape[1] / width).astype(int)
    return label[rows][:, columns]


def oracle(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[dict[str, float | None], float, float, float]:
    """IoU by class, mIoU, PA, mPA in percent from (label, prediction) pairs, pixel set by pixel set."""
    truth = np.concatenate([label.ravel() for label, _ in pairs])
    guess = np.concatenate([prediction.ravel() for _, prediction in pairs])[truth != IGNORE]
    truth = truth[truth != IGNORE]
    iou: dict[str, float | None] = {}
    accuracies = []
    for k, name in enumerate(NAMES):
        both, either = ((truth == k) & (guess == k)).sum(), ((truth == k) | (guess == k)).sum()
        iou[name] = None
        if (truth == k).any():
            iou[name] = 100 * both / either
            accuracies.append(100 * both / (truth == k).sum())
    seen = [value for value in iou.values() if value is not None]
    return iou, float(np.mean(seen)), 100 * float((truth == guess).mean()), float(np.mean(accuracies))


@pytest.mark.parametrize("count", [1, 7, 8, 11])  # the loader's batches hold 8
def test_scores_are_those_counted_by_hand(count: int) -> None:
    rng = np.random.default_rng(count)
    sizes = [(int(rng.integers(8, 40)), int(rng.integers(8, 40))) for _ in range(count)]
    labels = random_labels(rng, sizes)
    logits = rng.normal(size=(count, CLASSES, 6, 8))
    result = run(Lookup(torch.tensor(logits, dtype=torch.float32)), labels)
    width, height = SIZE
    own = [(label, predict(one, *label.shape)) for label, one in zip(labels, logits, strict=True)]
    small = [
        (nearest(label, height, width), predict(one, height, width))
        for (label, _), one in zip(own, logits, strict=True)
    ]
    assert result.frames == count
    for scores, pairs in ((result.own_size, own), (result.training_size, small)):
        iou, miou, accuracy, mean_accuracy = oracle(pairs)
        assert scores.iou == pytest.approx(iou, abs=1e-9)
        assert scores.miou == pytest.approx(miou, abs=1e-9)
        assert scores.pixel_accuracy == pytest.approx(accuracy, abs=1e-9)
        assert scores.mean_pixel_accuracy == pytest.approx(mean_accuracy, abs=1e-9)
    assert result.own_size != result.training_size


@pytest.mark.parametrize("count", [1, 9])
def test_as_deployed_scores_the_pngs_that_the_vehicle_would_write(count: int, tmp_path: Path) -> None:
    """Decided at the network's size, written as PNG at the frame's size by Pillow's nearest, read back and counted."""
    rng = np.random.default_rng(count)
    labels = random_labels(rng, [(int(rng.integers(5, 60)), int(rng.integers(5, 60))) for _ in range(count)])
    logits = rng.normal(size=(count, CLASSES, 6, 8))
    result = run(Lookup(torch.tensor(logits, dtype=torch.float32)), labels, as_deployed=True)
    width, height = SIZE
    pairs = []
    for index, (label, one) in enumerate(zip(labels, logits, strict=True)):
        png = Image.fromarray(predict(one, height, width).astype(np.uint8))
        png.resize(label.shape[::-1], Image.Resampling.NEAREST).save(tmp_path / f"{index}.png")
        pairs.append((label, np.asarray(Image.open(tmp_path / f"{index}.png"))))
    iou, miou, accuracy, mean_accuracy = oracle(pairs)
    assert result.as_deployed is not None
    assert result.as_deployed.iou == pytest.approx(iou, abs=1e-9)
    assert result.as_deployed.miou == pytest.approx(miou, abs=1e-9)
    assert result.as_deployed.pixel_accuracy == pytest.approx(accuracy, abs=1e-9)
    assert result.as_deployed.mean_pixel_accuracy == pytest.approx(mean_accuracy, abs=1e-9)
    assert result.as_deployed.miou != result.own_size.miou
    plain = run(Lookup(torch.tensor(logits, dtype=torch.float32)), labels)
    assert plain == Evaluation(result.own_size, result.training_size, result.frames)


def test_as_deployed_gains_nothing_and_loses_nothing_at_the_networks_own_size() -> None:
    labels = random_labels(np.random.default_rng(3), [(SIZE[1], SIZE[0])] * 3)
    result = run(Lookup(torch.randn(3, CLASSES, 6, 8)), labels, as_deployed=True)
    assert result.as_deployed == result.own_size == result.training_size


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), classes=st.integers(2, 7))
def test_scores_are_those_of_torchmetrics(seed: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(classes, (500,), generator=generator)
    guess = torch.where(torch.rand(500, generator=generator) < 0.6, truth, (truth * 3 + 1) % classes)
    # every class labelled, or torchmetrics and we differ on whether a class that is only predicted counts
    truth[:classes] = torch.arange(classes)
    ignored = torch.rand(500, generator=generator) < 0.2
    ignored[:classes] = False
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    for t, g in zip(truth[~ignored].tolist(), guess[~ignored].tolist(), strict=True):
        confusion[t, g] += 1
    scores = scores_of(confusion, tuple(map(str, range(classes))))
    target = truth.masked_fill(ignored, IGNORE)
    jaccard = MulticlassJaccardIndex(classes, average=None, ignore_index=IGNORE)(guess, target)
    assert list(scores.iou.values()) == pytest.approx((100 * jaccard).tolist(), abs=1e-4)
    assert scores.miou == pytest.approx(100 * float(jaccard.mean()), abs=1e-4)
    for average, value in {"micro": scores.pixel_accuracy, "macro": scores.mean_pixel_accuracy}.items():
        metric = MulticlassAccuracy(classes, average=average, ignore_index=IGNORE)  # type: ignore[arg-type]
        assert value == pytest.approx(100 * float(metric(guess, target)), abs=1e-4)


def test_class_without_a_labelled_pixel_is_none_but_its_predictions_hurt() -> None:
    # rows: label; columns: prediction; "sky" is never labelled and predicted 4 times where "road" is
    confusion = torch.tensor([[6, 0, 4, 0], [0, 5, 0, 0], [0, 0, 0, 0], [1, 0, 0, 3]])
    scores = scores_of(confusion, NAMES)
    assert scores.iou == pytest.approx({"road": 100 * 6 / 11, "car": 100.0, "sky": None, "pole": 75.0})
    assert scores.miou == pytest.approx((100 * 6 / 11 + 100 + 75) / 3)
    assert scores.mean_pixel_accuracy == pytest.approx((60 + 100 + 75) / 3)
    assert scores.pixel_accuracy == pytest.approx(100 * 14 / 19)


def test_subset_decides_the_means_alone() -> None:
    confusion = torch.tensor([[6, 0, 4, 0], [0, 5, 0, 0], [0, 0, 0, 0], [1, 0, 0, 3]])
    scores, everything = scores_of(confusion, NAMES, ("pole", "road", "sky")), scores_of(confusion, NAMES)
    assert scores.miou == pytest.approx((100 * 6 / 11 + 75) / 2)
    assert scores.mean_pixel_accuracy == pytest.approx((60 + 75) / 2)
    assert (scores.iou, scores.pixel_accuracy) == (everything.iou, everything.pixel_accuracy)
    with pytest.raises(UserError, match="labelled pixel"):
        scores_of(confusion, NAMES, ("sky",))
    with pytest.raises(UserError, match=r"'rood'.*: road, car"):
        scores_of(confusion, NAMES, ("road", "rood"))


def test_counts_beyond_float32_are_exact() -> None:
    big = 2**40  # pixels of a large data set
    scores = scores_of(torch.tensor([[big, 1], [0, big]]), ("a", "b"))
    assert scores.pixel_accuracy == 100 * 2 * big / (2 * big + 1)
    assert scores.miou < 100


def test_model_that_knows_gets_100_at_both_sizes() -> None:
    rng = np.random.default_rng(0)
    labels = random_labels(rng, [(SIZE[1], SIZE[0])] * 9)
    logits = np.stack([[label == k for k in range(CLASSES)] for label in labels]).astype(np.float32)
    result = run(Lookup(torch.from_numpy(logits)), labels)
    for scores in (result.own_size, result.training_size):
        assert (scores.miou, scores.pixel_accuracy, scores.mean_pixel_accuracy) == (100.0, 100.0, 100.0)
        assert scores.iou == dict.fromkeys(NAMES, 100.0)


def test_labels_that_are_ignored_everywhere_are_an_error() -> None:
    with pytest.raises(UserError, match="labelled pixel"):
        run(Lookup(torch.zeros(1, CLASSES, 3, 4)), [np.full((12, 16), IGNORE, np.uint8)])


def test_model_is_scored_in_eval_mode() -> None:
    class Moody(Lookup):
        def forward(self, images: Tensor) -> SegmenterOutput:
            assert not self.training
            return super().forward(images)

    run(Moody(torch.zeros(1, CLASSES, 3, 4)).train(), [np.zeros((12, 16), np.uint8)])


def test_evaluate_writes_strict_json(tiny: Callable[..., Config], night_frames: Path, tmp_path: Path) -> None:
    result = evaluate(tiny("--evaluate.root", str(night_frames)))
    text = (tmp_path / "run" / "evaluation.json").read_text()
    content = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert content == as_json(result)
    assert content["evaluated_frames"] == 6
    assert (
        content["miou"]
        == result.own_size.miou
        == pytest.approx(np.mean([value for value in content["iou"].values() if value is not None]))
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["evaluation.json"]


def test_evaluate_takes_a_subset_and_so_many_frames(tiny: Callable[..., Config], night_frames: Path) -> None:
    whole = evaluate(tiny("--evaluate.root", str(night_frames)))
    part = evaluate(tiny("--evaluate.root", str(night_frames), "--evaluate.subset", "[road, sky]"))
    assert part.own_size.iou == whole.own_size.iou
    both = [part.own_size.iou[name] for name in ("road", "sky")]
    assert part.own_size.miou == pytest.approx(sum(value for value in both if value is not None) / 2)
    assert evaluate(tiny("--evaluate.root", str(night_frames), "--evaluate.frames", "2")).frames == 2


def test_the_command_prints_the_deployed_figure_and_the_gap(
    tiny_yaml: Path, tiny: Callable[..., Config], night_frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--evaluate.root", str(night_frames), "--target.size", "[48, 40]"]
    assert main(["--config", str(tiny_yaml), *options, "--as-deployed"]) == 0
    printed = capsys.readouterr().out
    content = json.loads(printed.splitlines()[-1])
    result = evaluate(tiny(*options, "--evaluate.as_deployed", "true"))
    assert content == as_json(result)
    assert result.as_deployed is not None
    own, deployed = result.own_size.miou, result.as_deployed.miou
    assert content["miou_as_deployed"] == deployed != own
    row = next(line for line in printed.splitlines() if "as deployed" in line)
    assert f"{deployed:.2f} ({deployed - own:+.2f})" in row
    assert main(["--config", str(tiny_yaml), *options]) == 0
    assert "deployed" not in capsys.readouterr().out


def test_labels_of_more_classes_than_the_model_has(
    tiny: Callable[..., Config], tmp_path: Path, source_weights: Path
) -> None:
    for kind, value in {"images": 0, "labels": 9}.items():
        (tmp_path / "data" / kind).mkdir(parents=True)
        Image.new("L", (32, 32), value).save(tmp_path / "data" / kind / "a.png")
    with pytest.raises(UserError, match=r"a\.png .* 9, .* 9 "):
        evaluate(tiny("--evaluate.root", str(tmp_path / "data")))
    with pytest.raises(UserError, match=r"num_classes is 5"):
        evaluate(tiny("--evaluate.root", str(tmp_path / "data"), "--model.num_classes", "5"))
    assert not list(tmp_path.glob("run/*"))


def test_model_that_is_not_finite_is_scored_not_crashed(
    tiny: Callable[..., Config], night_frames: Path, source_weights: Path, tmp_path: Path
) -> None:
    model, info = build_from_weights(source_weights)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    save_weights(tmp_path / "nan.safetensors", model, info)
    result = evaluate(tiny("--evaluate.root", str(night_frames), "--model.weights", str(tmp_path / "nan.safetensors")))
    assert json.dumps(as_json(result), allow_nan=False)
    assert 0 <= result.own_size.miou < 50


def test_table_shows_a_dash_for_none() -> None:
    confusion = torch.tensor([[6, 0, 4, 0], [0, 5, 0, 0], [0, 0, 0, 0], [1, 0, 0, 3]])
    scores = scores_of(confusion, NAMES)
    console = Console(file=io.StringIO(), width=100)
    print_scores({"source": Evaluation(scores, scores, 3)}, console)
    lines = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in table_rows(console)}
    assert lines["sky"] == "-"
    assert lines["road"] == "54.5"
    assert lines["mIoU"] == f"{scores.miou:.2f}"


def table_rows(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return [line for line in console.file.getvalue().splitlines() if line.startswith("│")]


@pytest.mark.slow
def test_two_processes_count_every_frame_once(
    tiny: Callable[..., Config],
    tiny_yaml: Path,
    day_frames: Path,
    tmp_path: Path,
    start: Callable[..., subprocess.Popen[str]],
) -> None:
    """Eleven frames: the last batch of three is padded to be shared, and the padding must not be counted."""
    options = ["--evaluate.root", str(day_frames), "--evaluate.frames", "11"]
    alone = evaluate(tiny(*options))
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "sfda_engine.evaluate"]
    process = start(*launcher, "--config", str(tiny_yaml), *options, "--run.output", str(tmp_path / "two"))
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    assert json.loads((tmp_path / "two" / "evaluation.json").read_text()) == as_json(alone)


def test_a_message_that_ends_in_a_period_gets_no_second_one() -> None:
    for said in ("label a.png is bad. Convert it.", "label a.png is bad. Convert it"):
        assert "Convert it. Training is done and" in str(scoring_failed(UserError(said), Path("run")))
