"""Crops, synthetic sizes and native windows in a whole run; what cannot fit is refused before it begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfda_engine.adapt import main as adapt_main
from sfda_engine.config.checks import validate
from sfda_engine.config.schema import Config, EvaluateConfig, MethodConfig, TargetConfig
from sfda_engine.errors import UserError
from sfda_engine.evaluate import main as evaluate_main
from sfda_engine.method.synthetic_views import draw_view, generator_size, synthetic_sizes
from sfda_engine.models.generator import Generator, View
from sfda_engine.pipelines.training import Trainer
from sfda_engine.training.metrics import read_metrics

CROPPED = ("--target.size=[80,64]", "--target.crop=[64,48]")
WINDOWS = (*CROPPED, "--method.synthetic_view=window", "--method.synthetic_sizes=[[32,16]]")


def test_crops_and_native_windows_of_several_sizes_in_one_run(
    trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(*WINDOWS, "--run.steps=6", "--run.gradient_accumulation=2", "--method.warmup_steps=6")
    views: list[View] = []
    forward = Generator.forward

    def noted(self: Generator, z: Tensor, view: View | None = None) -> Tensor:
        assert view is not None
        views.append(view)
        images = forward(self, z, view)
        assert images.shape[-2:] == view.size
        return images

    monkeypatch.setattr(Generator, "forward", noted)
    (_, batches), *_ = run.batches("adaptation", 0, 1)
    assert [batch.images.shape[-2:] for batch in batches] == [(48, 64)] * 2
    run.run()
    assert {view.size for view in views} == {(16, 16), (16, 32)}
    assert len({view.corner for view in views}) > 2
    assert run.networks.generator.size == (48, 64)
    assert run.loop.metrics.path is not None
    assert all(line["generator/dad_st"] > 0 for line in read_metrics(run.loop.metrics.path))


def test_crops_are_parts_of_the_frame_and_come_from_the_draw(trainer: Callable[..., Trainer]) -> None:
    def images(start: int, *options: str) -> list[Tensor]:
        run = trainer(*options, "--target.augment=false", folder=False)
        return [batch.images for _, batches in run.batches("adaptation", start, 4) for batch in batches]

    crops, wholes = images(0, *CROPPED), images(0, *CROPPED[:1])
    places = set()
    for crop, whole in zip(torch.cat(crops), torch.cat(wholes), strict=True):
        windows = whole.unfold(1, 48, 1).unfold(2, 64, 1)  # (3, 17, 17, 48, 64)
        found = (windows == crop[:, None, None]).all(-1).all(-1).all(0).nonzero().tolist()
        assert len(found) == 1
        places.add(tuple(found[0]))
    assert len(places) > 4
    assert all(torch.equal(one, other) for one, other in zip(crops[2:], images(2, *CROPPED), strict=True))


def config(view: Any = "window", **method: Any) -> Config:
    sizes = {"synthetic_size": (128, 64), "synthetic_sizes": ((64, 64),)} | method
    return Config(target=TargetConfig(size=(256, 192)), method=MethodConfig(synthetic_view=view, **sizes))


def test_views_lie_within_the_frame_and_cover_it() -> None:
    views = [draw_view(config(), torch.Generator().manual_seed(seed)) for seed in range(300)]
    assert {view.size for view in views} == {(64, 128), (64, 64)}
    for size, places in (((64, 128), 5 * 5), ((64, 64), 5 * 7)):
        corners = {view.corner for view in views if view.size == size}
        assert len(corners) == places
        assert all(top + size[0] <= 192 and left + size[1] <= 256 for top, left in corners)  # type: ignore[misc]
    assert views == [draw_view(config(), torch.Generator().manual_seed(seed)) for seed in range(300)]


def test_whole_frames_and_the_default_size() -> None:
    assert draw_view(config("frame", synthetic_sizes=()), torch.Generator()) == View((64, 128))
    assert generator_size(config("frame")) == (64, 128)
    assert generator_size(config()) == (192, 256)
    assert synthetic_sizes(Config(target=TargetConfig(size=(256, 128), crop=(128, 96)))) == [(64, 48)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Config(target=TargetConfig(size=(64, 64), crop=(96, 32))), r"target\.crop is \[96, 32\].*within target\.size"),
        (Config(target=TargetConfig(crop=(64, 16))), r"target\.crop .* at least 32"),
        (Config(evaluate=EvaluateConfig(window=(256, 96))), r"evaluate\.window .*within target\.size \[128, 96\]"),
        (Config(evaluate=EvaluateConfig(window=(72, 64))), r"evaluate\.window .*multiples of 32"),
        (Config(evaluate=EvaluateConfig(window_overlap=1.0)), r"evaluate\.window_overlap .*below 1"),
        (config(synthetic_sizes=((512, 64),)), r"method\.synthetic_sizes .*within target\.size"),
        (config("frame", synthetic_sizes=((8, 64),)), r"method\.synthetic_sizes .*at least 16"),
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
    with pytest.raises(UserError, match=r"evaluate\.window: this network gives 22 cells of logits for 64 pixels"):
        entry([word for key, value in options.items() for word in (f"--{key}", str(value))])
    assert not (tmp_path / "run").exists()
