"""Crops and synthetic sizes in a whole run; what cannot fit is refused before it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sfda_engine.adapt import main as adapt_main
from sfda_engine.config.checks import validate
from sfda_engine.config.schema import Config, EvaluateConfig, MethodConfig, TargetConfig
from sfda_engine.errors import UserError
from sfda_engine.evaluate import main as evaluate_main
from sfda_engine.pipelines.training import Trainer
from sfda_engine.training.metrics import read_metrics

SIZED = TargetConfig(size=(128, 96))
CROPPED = ("--target.size=[80,64]", "--target.crop=[64,48]")


def test_a_run_sees_crops_and_synthesizes_half_of_them(trainer: Callable[..., Trainer]) -> None:
    run = trainer(*CROPPED, "--method.synthetic_size=null", "--run.gradient_accumulation=2")
    (_, batches), *_ = run.batches("adaptation", 0, 1)
    assert [batch.images.shape[-2:] for batch in batches] == [(48, 64)] * 2
    assert run.synthesize(2).shape == (2, 3, 24, 32)
    run.run()
    assert run.loop.metrics.path is not None
    assert all(line["generator/dad_st"] > 0 for line in read_metrics(run.loop.metrics.path))


def test_crops_are_parts_of_the_frame_and_come_from_the_draw(trainer: Callable[..., Trainer]) -> None:
    def images(start: int, *options: str) -> list[Tensor]:
        run = trainer(*options, folder=False)
        return [batch.images for _, batches in run.batches("adaptation", start, 4) for batch in batches]

    crops, wholes = images(0, *CROPPED), images(0, *CROPPED[:1])
    places = set()
    for crop, whole in zip(torch.cat(crops), torch.cat(wholes), strict=True):
        windows = whole.unfold(1, 48, 1).unfold(2, 64, 1)  # (3, 17, 17, 48, 64)
        found = (windows == crop[:, None, None]).all(-1).all(-1).all(0).nonzero().tolist()  # mirrored by the same draw
        assert len(found) == 1
        places.add(tuple(found[0]))
    assert len(places) > 4
    assert all(torch.equal(one, other) for one, other in zip(crops[2:], images(2, *CROPPED), strict=True))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Config(target=TargetConfig(size=(64, 64), crop=(96, 32))), r"target\.crop is \[96, 32\].*within target\.size"),
        (Config(target=TargetConfig(crop=(64, 32))), r"target\.crop .*target\.size is null"),
        (Config(evaluate=EvaluateConfig(window=(64, 64))), r"evaluate\.window .*target\.size is null"),
        (Config(target=TargetConfig(crop=(64, 16))), r"target\.crop .* at least 32"),
        (
            Config(target=TargetConfig(size=(128, 96)), evaluate=EvaluateConfig(window=(256, 96))),
            r"evaluate\.window .*within target\.size \[128, 96\]",
        ),
        (
            Config(target=TargetConfig(size=(128, 96)), evaluate=EvaluateConfig(window=(72, 64))),
            r"evaluate\.window .*multiples of 32",
        ),
        (Config(method=MethodConfig(synthetic_size=(8, 64))), r"method\.synthetic_size .*at least 16"),
    ],
)
def test_what_does_not_fit_is_refused(wrong: Config, message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(wrong)


class Third(nn.Module):
    """A network whose logits have a third of the image's size."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 3, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


@pytest.mark.parametrize("entry", [adapt_main, evaluate_main], ids=["adapt", "evaluate"])
def test_windows_that_do_not_fit_the_network_are_refused_before_anything_is_written(
    entry: Callable[[list[str]], int], night_frames: Path, tmp_path: Path
) -> None:
    torch.save(Third(9).state_dict(), tmp_path / "third.pt")
    options = {
        "model.arch": f"{__name__}:Third", "model.classes": "scenes", "model.feature_layer": "body",
        "model.weights": tmp_path / "third.pt", "model.check_input": "false", "target.root": night_frames,
        "evaluate.root": night_frames, "target.size": "[128, 96]", "evaluate.window": "[64, 64]",
        "evaluate.dataset": "folder", "target.dataset": "folder", "target.split": "null", "evaluate.split": "null",
        "model.exposure": "none", "run.output": tmp_path / "run",
    }  # fmt: skip
    with pytest.raises(UserError, match=r"evaluate\.window: .*22 .*64 "):
        entry([word for key, value in options.items() for word in (f"--{key}", str(value))])
    assert not (tmp_path / "run").exists()
