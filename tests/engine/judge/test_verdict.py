"""The verdict from scores, the scores from labels, and that a broken or collapsed model never ships."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sfda_engine.data.datasets import SceneImages
from sfda_engine.data.images import ImageSize
from sfda_engine.judge.verdict import (
    SOURCE,
    START,
    Defendant,
    ModelScores,
    decide,
    information,
    judge,
    score,
    seen,
    suited,
)
from sfda_engine.judge.verdict import (
    Testimony as Said,
)
from sfda_engine.models.preprocess import Normalization, Preprocess
from sfda_engine.models.segmenter import SegmenterOutput
from sfda_engine.views.probabilities import Predictions, inputs, mirrored_mean, predict
from sfda_engine.views.view import View

SIZE, CLASSES, FRAMES = ImageSize(48, 32), 3, 6
VIEWS = tuple(View(exposure, size, 1.0) for exposure in ("none", "gamma") for size in (SIZE, ImageSize(72, 48)))
SOURCE_SCORES = (0.50, 0.0, 1.4)
CASES: dict[str, tuple[dict[str, tuple[float, float, float]], str]] = {
    # agreement, lead, information
    "the student is best": ({START: (0.53, 3.0, 1.4), "30": (0.55, 4.0, 1.5)}, "30"),
    "the latest of good snapshots": ({START: (0.53, 3.0, 1.4), "30": (0.56, 4.0, 1.5), "60": (0.55, 4.0, 1.5)}, "60"),
    "the last before the collapse": ({START: (0.53, 3.0, 1.4), "30": (0.56, 4.0, 1.5), "60": (0.30, -9.0, 1.0)}, "30"),
    "views say a little less of what was learnt": ({START: (0.56, 4.0, 1.4), "30": (0.54, 3.0, 1.4)}, "30"),
    "training spoilt it": ({START: (0.53, 3.0, 1.4), "30": (0.30, -9.0, 1.0)}, START),
    "training took much of it": ({START: (0.60, 4.0, 1.4), "30": (0.51, 0.3, 1.4)}, START),
    "a lead that is not known": ({START: (0.50, 0.0, 1.4), "30": (0.55, math.nan, 1.5)}, SOURCE),
    "information that is not known": ({START: (0.50, 0.0, 1.4), "30": (0.55, 4.0, math.nan)}, SOURCE),
    "it unlearnt errors that all views share": ({START: (0.56, 4.0, 1.4), "30": (0.50, 0.0, 1.3)}, "30"),
    "the start is worse than the source": ({START: (0.45, -3.0, 1.4), "30": (0.54, 3.0, 1.4)}, "30"),
    "all are worse": ({START: (0.45, -3.0, 1.4), "30": (0.47, -2.0, 1.4)}, SOURCE),
    "hardly better": ({START: (0.50, 0.0, 1.4), "30": (0.51, 4.0, 1.4)}, SOURCE),
    "better on few frames": ({START: (0.50, 0.0, 1.4), "30": (0.55, 0.6, 1.4)}, SOURCE),
    "agrees, but classes merge": ({START: (0.50, 0.0, 1.4), "30": (0.54, 4.0, 1.0)}, SOURCE),
    "broken": ({START: (0.50, 0.0, 1.4), "30": (0.0, math.nan, math.nan)}, SOURCE),
    "nothing but the source and a start like it": ({START: SOURCE_SCORES}, SOURCE),
}


@pytest.mark.parametrize("name", CASES)
def test_verdict_from_scores(name: str) -> None:
    table, expected = CASES[name]
    scores = {one: ModelScores(*own) for one, own in ({SOURCE: SOURCE_SCORES} | table).items()}
    chosen, basis = decide(scores)
    assert chosen == expected
    assert basis


class Toy(nn.Module):
    """Class by brightness, with a head of its own to spoil."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, CLASSES, 1)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 3, 1, 1))
            self.head.bias.copy_(torch.tensor([-1.0, 0.5, -1.0]))

    def forward(self, images: Tensor) -> SegmenterOutput:
        return SegmenterOutput(self.head(images), images)


def spoilt(bias: float) -> nn.Module:
    network = Toy().eval()
    with torch.no_grad():
        network.head.bias[1] += bias
    return network


@pytest.fixture(scope="module")
def frames() -> list[Image.Image]:
    scenes = SceneImages("day", purpose="target", size=(96, 64), frames=FRAMES)
    return [scenes.image(index) for index in range(FRAMES)]


@pytest.fixture(scope="module")
def witnesses(frames: list[Image.Image]) -> Predictions:
    return predict(Toy().eval(), Normalization(), VIEWS, CLASSES, frames, frames)


def models(*snapshots: nn.Module) -> dict[str, Defendant]:
    own = {
        SOURCE: Defendant(Toy().eval(), VIEWS[0]),
        START: Defendant(Toy().eval(), VIEWS[2]),
    }
    return own | {str(step): Defendant(network, VIEWS[2]) for step, network in enumerate(snapshots, 1)}


@pytest.mark.parametrize("bias", [1e3, -1e3, math.nan])
def test_a_model_that_forgot_or_broke_never_ships(
    bias: float, frames: list[Image.Image], witnesses: Predictions
) -> None:
    verdict = judge(models(spoilt(bias)), Normalization(), frames, witnesses)
    assert verdict.model in (SOURCE, START)
    assert verdict.verdict == f"keep_{verdict.model}"
    assert set(verdict.scores) == {SOURCE, START, "1"}


def test_equal_models_ship_the_source(frames: list[Image.Image], witnesses: Predictions) -> None:
    same = {name: Defendant(Toy().eval(), VIEWS[0]) for name in (SOURCE, START, "1")}
    verdict = judge(same, Normalization(), frames, witnesses)
    assert verdict.verdict == "keep_source"
    assert len({one.agreement for one in verdict.scores.values()}) == 1


def test_a_repaired_source_is_credible(frames: list[Image.Image], witnesses: Predictions) -> None:
    """The witnesses see the toy as it should be; the source that is judged has lost a class."""
    wrong = models(Toy().eval()) | {SOURCE: Defendant(spoilt(1e3), VIEWS[0])}
    verdict = judge(wrong, Normalization(), frames, witnesses)
    assert verdict.verdict in ("adapted", "keep_start")
    assert verdict.scores["1"].lead > 1


def test_the_networks_stay_as_they_are(frames: list[Image.Image], witnesses: Predictions) -> None:
    judged = models(spoilt(0.3))
    before = {name: copy.deepcopy(model.network.state_dict()) for name, model in judged.items()}
    judge(judged, Normalization(), frames, witnesses)
    for name, model in judged.items():
        assert all(torch.equal(value, before[name][key]) for key, value in model.network.state_dict().items())


def test_agreement_is_the_mean_macro_iou_with_the_other_witnesses() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(CLASSES, (4, FRAMES, 5, 7), generator=generator, dtype=torch.uint8)
    blank = torch.zeros(4, FRAMES, 5, 7, dtype=torch.uint8)
    presence = torch.full((FRAMES, CLASSES), 1 / CLASSES)
    predictions = Predictions(VIEWS, CLASSES, labels, blank)
    own = torch.randint(CLASSES, (FRAMES, 5, 7), generator=generator, dtype=torch.uint8)
    looks = {name: Said(maps, torch.zeros(FRAMES), presence) for name, maps in ((SOURCE, labels[0]), ("1", own))}
    scores = score(looks, {SOURCE: VIEWS[0], "1": VIEWS[0]}, predictions)

    def overlap(first: np.ndarray, second: np.ndarray) -> float:
        pairs = [(first == index, second == index) for index in range(CLASSES)]
        return float(np.mean([(one & two).sum() / (one | two).sum() for one, two in pairs]))

    arrays = labels.numpy()
    assert scores["1"].agreement == pytest.approx(np.mean([overlap(own.numpy(), arrays[i]) for i in (1, 2, 3)]))
    assert scores[SOURCE].agreement == pytest.approx(np.mean([overlap(arrays[0], arrays[i]) for i in (1, 2, 3)]))
    assert scores[SOURCE].lead == 0
    assert math.copysign(1, scores["1"].lead) == math.copysign(1, scores["1"].agreement - scores[SOURCE].agreement)


def test_witnesses_have_the_share_of_the_view_or_the_nearest_and_are_not_the_view_itself() -> None:
    shares, sizes = (0.0, 0.5, 1.0), (SIZE, ImageSize(72, 48))
    views = [View("none", size, share) for size in sizes for share in shares] + [View("gamma", SIZE, 0.5)]
    assert suited(View("none", SIZE, 0.5), views) == [4, 6]
    assert suited(View("none", SIZE, 1.0), views) == [5]
    assert suited(View("none", SIZE, 0.6), views) == [4, 6]
    assert suited(View("gamma", ImageSize(72, 48), 0.5), views) == [1, 4, 6]


@pytest.mark.parametrize(("entropy", "expected"), [(0.0, math.log(2)), (0.4, math.log(2) - 0.4)])
def test_information_of_two_classes_that_share_the_frames(entropy: float, expected: float) -> None:
    presence = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    own = Said(torch.zeros(2, 1, 1), torch.full((2,), entropy), presence)
    assert information(own) == pytest.approx(expected, abs=1e-6)


def test_a_model_is_seen_with_its_mirror_image(frames: list[Image.Image], witnesses: Predictions) -> None:
    network, grid = Toy().eval(), witnesses.labels.shape[-2:]
    own = seen(Defendant(network, VIEWS[0]), Normalization(), frames, witnesses)
    expected = mirrored_mean(network, inputs(frames, Preprocess(Normalization()), SIZE), (grid[0], grid[1]))
    assert (own.labels == expected.argmax(1)).double().mean() > 0.999
    torch.testing.assert_close(
        own.entropy, torch.distributions.Categorical(expected.movedim(1, -1)).entropy().mean((1, 2))
    )
    torch.testing.assert_close(own.presence, expected.mean((2, 3)))
