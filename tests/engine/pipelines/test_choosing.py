"""What the configuration states restricts the choice; the judged frames are kept from training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from PIL import Image

from sfda_engine.config.schema import Config, MethodConfig, ModelConfig
from sfda_engine.data.images import ImageSize
from sfda_engine.judge.aside import set_aside
from sfda_engine.pipelines.choosing import luminance, shares_of, shown, suits
from sfda_engine.pipelines.training import Trainer
from sfda_engine.views.view import View


@pytest.mark.parametrize(
    ("exposure", "share", "fitting"),
    [("auto", None, True), ("gamma", None, True), ("none", None, False), ("auto", 0.3, True), ("auto", 0.4, False)],
)
def test_a_view_suits_what_is_stated(exposure: str, share: float | None, fitting: bool) -> None:
    config = Config(
        model=ModelConfig(exposure=exposure),  # type: ignore[arg-type]
        method=MethodConfig(bn_share=share),
    )
    assert suits(View("gamma", ImageSize(64, 48), 0.3), config) == fitting


def test_a_stated_share_is_looked_at() -> None:
    assert 0.42 in shares_of(Config(method=MethodConfig(bn_share=0.42)))
    assert list(shares_of(Config())) == sorted(set(shares_of(Config())))


def test_a_run_starts_from_what_is_stated(trainer: Callable[..., Trainer]) -> None:
    run = trainer("--model.exposure", "gamma", "--method.bn_share", "0.42")
    view = run.start.view
    assert (view.exposure, view.size, view.share) == ("gamma", (32, 32), 0.42)
    assert run.inputs.adapted_info.exposure == "gamma"


def test_a_size_that_is_not_stated_is_chosen(trainer: Callable[..., Trainer]) -> None:
    run = trainer("--target.size", "null", "--method.synthetic_size", "null")
    assert run.size == run.inputs.config.target.size == run.inputs.adapted_info.size
    assert run.size in {view.size for view in run.start.choice.by_size}
    images = next(iter(run.batches("adaptation", 0, 1)))[1][0].images
    assert tuple(images.shape[-2:]) == (run.size[1], run.size[0])


@pytest.mark.parametrize("total", [62, 124, 1403])
def test_views_are_compared_on_frames_of_the_whole_drive(total: int) -> None:
    split = set_aside(total)
    frames = shown(split)
    assert tuple(frames[: len(split.judged)]) == split.judged
    assert {index * 4 // total for index in frames[len(split.judged) :]} == set(range(4))


def test_luminance_is_that_of_the_middle_frame() -> None:
    frames = [Image.new("RGB", (4, 3), color) for color in ((51, 51, 51), (255, 0, 0), (255, 255, 255))]
    assert luminance(frames) == pytest.approx(0.299, abs=0.002)


def test_few_frames_are_looked_at_once() -> None:
    assert sorted(shown(set_aside(5))) == list(range(5))


def test_the_student_trains_on_no_frame_that_it_is_judged_on() -> None:
    for total in (20, 62, 150, 1403):
        split = set_aside(total)
        assert not set(split.training) & set(split.judged)
        assert len(split.training) >= 0.75 * total
