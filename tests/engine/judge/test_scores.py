"""Scores without labels: each against its closed form, float64 or another library, and what they say of a collapse."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_jaccard_index

from sfda_engine.data.images import resize, to_float_tensor
from sfda_engine.inspection.convention import source_distance
from sfda_engine.judge.scores import (
    HIGHER_IS_BETTER,
    SAMPLED_PIXELS,
    agreement,
    counts,
    look_at,
    mean_iou,
    neighborhood_density,
    nuclear_norm,
    refer,
    sample_frames,
    sample_pixels,
    score,
)
from sfda_engine.models.norms import batch_norm_layers, reestimate_statistics
from sfda_engine.models.preprocess import Normalization, Preprocess
from sfda_engine.models.segmenter import SegmenterOutput
from sfda_engine.views.augmented import VIEWS

CLASSES, SIZE = 5, (32, 24)
PREPROCESS = Preprocess(Normalization())


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Conv2d(6, CLASSES, 1)

    def forward(self, images: Tensor) -> SegmenterOutput:
        features = self.encoder(images)
        return SegmenterOutput(2 * self.head(features), features)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="module")
def frames() -> list[Image.Image]:
    dice = np.random.default_rng(0)
    small = [Image.fromarray(dice.integers(0, 256, (6, 8, 3), dtype=np.uint8)) for _ in range(11)]
    return [image.resize((40, 30), Image.Resampling.BICUBIC) for image in small]


def collapsed(model: nn.Module) -> nn.Module:
    """The same network, sure of class 0 everywhere."""
    sure = copy.deepcopy(model)
    nn.init.zeros_(sure.head.weight)
    sure.head.bias.data = torch.tensor([50.0, 0, 0, 0, 0])
    return sure


def test_neighborhood_density_equals_float64_pixel_by_pixel() -> None:
    probabilities = torch.randn(12, CLASSES, generator=torch.Generator().manual_seed(1)).softmax(1)
    points = probabilities.double().numpy()
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    entropies = []
    for row in range(12):
        others = np.exp(np.delete(points @ points[row], row) / 0.05)
        share = others / others.sum()
        entropies.append(-(share * np.log(share)).sum())
    assert neighborhood_density(probabilities) == pytest.approx(np.mean(entropies), rel=1e-4)
    # all alike: every pixel is the neighbor of the 11 others
    assert neighborhood_density(probabilities[:1].expand(12, -1)) == pytest.approx(math.log(11), abs=1e-5)


def test_nuclear_norm_is_one_for_sure_and_balanced_predictions() -> None:
    sure = torch.eye(CLASSES).repeat(4, 1)
    assert nuclear_norm(sure) == pytest.approx(1.0, abs=1e-6)
    assert nuclear_norm(sure[:1].expand(20, -1)) == pytest.approx(1 / math.sqrt(CLASSES), abs=1e-6)  # one class alone
    assert nuclear_norm(torch.full((20, CLASSES), 1 / CLASSES)) == pytest.approx(1 / CLASSES, abs=1e-6)


def test_agreement_and_iou_equal_torchmetrics() -> None:
    dice = torch.Generator().manual_seed(2)
    one, other = (torch.randint(0, CLASSES, (2, 6, 7), generator=dice) for _ in range(2))
    table = counts(one, other, CLASSES)
    assert table.sum() == one.numel()
    assert table[1, 3] == ((one == 1) & (other == 3)).sum()
    assert agreement(table) == pytest.approx((one == other).float().mean().item())
    assert mean_iou(table) == pytest.approx(multiclass_jaccard_index(other, one, CLASSES).item())


def test_iou_counts_the_classes_of_the_first_and_a_lost_one_as_zero() -> None:
    reference, other = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 2])
    assert mean_iou(counts(reference, other, CLASSES)) == pytest.approx(0.5)
    assert agreement(counts(reference, other, CLASSES)) == pytest.approx(0.75)


def test_pixels_are_sampled_evenly_frame_by_frame() -> None:
    maps = torch.arange(2 * 3 * 200, dtype=torch.float32).view(2, 3, 10, 20)
    sample = sample_pixels(maps)
    assert sample.shape == (2 * SAMPLED_PIXELS, 3)
    assert sample[0].tolist() == [0, 200, 400]
    assert sample[SAMPLED_PIXELS - 1].tolist() == [199, 399, 599]
    assert sample_pixels(maps[..., :2, :3]).shape == (12, 3)


def test_scores_of_a_model_equal_what_one_look_at_all_frames_gives(model: nn.Module, frames: list[Image.Image]) -> None:
    """11 frames go through in batches of 8 and 3: no score may depend on it."""
    found = score(model, PREPROCESS, frames, SIZE)
    look = look_at(model, PREPROCESS, frames, SIZE)
    entropy = torch.special.entr(look.plain.double()).sum(1).mean().item()
    marginal = torch.special.entr(look.marginal.double()).sum(1).mean().item()
    diversity = torch.special.entr(look.plain.double().mean((0, 2, 3))).sum().item()
    share = torch.bincount(look.labels["plain"].flatten(), minlength=CLASSES).double() / look.plain[:, 0].numel()
    expected = {
        "entropy": entropy,
        "marginal_entropy": marginal,
        "mutual_information": marginal - look.view_entropy,
        "diversity": diversity,
        "information_maximization": diversity - entropy,
        "class_share_entropy": torch.special.entr(share).sum().item(),
        "agreement_mirrored": (look.labels["plain"] == look.labels["mirrored"]).double().mean().item(),
        "agreement_scale": torch.stack([look.labels["plain"] == look.labels[n] for n in ("larger", "smaller")])
        .double()
        .mean()
        .item(),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert found["mutual_information"] > 0
    assert set(found) == set(HIGHER_IS_BETTER)
    assert all(type(value) is float and math.isfinite(value) for value in found.values())


def test_a_model_agrees_with_itself_wholly_and_with_another_in_part(
    model: nn.Module, frames: list[Image.Image]
) -> None:
    torch.manual_seed(1)
    other = Tiny().eval()
    references = {"self": refer(model, PREPROCESS, frames, SIZE), "other": refer(other, PREPROCESS, frames, SIZE)}
    found = score(model, PREPROCESS, frames, SIZE, references)
    assert found["agreement_self"] == found["iou_self"] == 1.0
    assert found["agreement_other"] < 0.9
    assert found["bns_self"] == found["bns"]
    assert references["self"].labels.shape == (11, 24, 32)
    assert references["self"].labels.dtype == torch.uint8


def test_bns_is_the_distance_of_the_frames_from_running_statistics(model: nn.Module, frames: list[Image.Image]) -> None:
    inputs = PREPROCESS(torch.stack([to_float_tensor(resize(frame, SIZE)) for frame in frames[:8]]))
    before = score(model, PREPROCESS, frames[:8], SIZE, {"source": refer(model, PREPROCESS, frames[:8], SIZE)})
    assert before["bns"] == pytest.approx(source_distance(model, [inputs]), rel=1e-4)
    references = {"source": refer(model, PREPROCESS, frames[:8], SIZE)}
    reestimate_statistics(model, [inputs])
    after = score(model, PREPROCESS, frames[:8], SIZE, references)
    assert after["bns"] < 1e-4 < 0.01 < before["bns"]
    assert after["bns_source"] == pytest.approx(before["bns"], rel=1e-3)  # its statistics were kept, not looked up


def test_collapse_pleases_entropy_and_no_score_that_counts_classes(model: nn.Module, frames: list[Image.Image]) -> None:
    references = {"source": refer(model, PREPROCESS, frames, SIZE)}
    sound, gone = (score(one, PREPROCESS, frames, SIZE, references) for one in (model, collapsed(model)))
    for cheated in ("entropy", "marginal_entropy", "mutual_information"):
        assert gone[cheated] < 1e-4 < sound[cheated], cheated
    assert gone["agreement_mirrored"] == 1.0
    for kept in ("diversity", "class_share_entropy", "information_maximization", "iou_source"):
        assert gone[kept] < sound[kept], kept


def test_scoring_leaves_the_model_as_it_was(model: nn.Module, frames: list[Image.Image]) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    score(model, PREPROCESS, frames, SIZE, {"source": refer(model, PREPROCESS, frames, SIZE)})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in batch_norm_layers(model).values())
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_diverged_weights_give_nan_and_no_error(model: nn.Module, frames: list[Image.Image]) -> None:
    model.head.weight.data.fill_(math.nan)
    assert math.isnan(score(model, PREPROCESS, frames, SIZE)["marginal_entropy"])


def test_the_sample_is_fixed_and_evenly_spread() -> None:
    class Numbered:
        def __len__(self) -> int:
            return 100

        def name(self, index: int) -> str:
            return str(index)

        def image(self, index: int) -> Image.Image:
            return Image.new("L", (1, 1), index)

    chosen = [image.getpixel((0, 0)) for image in sample_frames(Numbered(), 12)]
    assert chosen == [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99]
    assert len(sample_frames(Numbered(), 1000)) == 100


def test_every_view_is_compared_with_the_plain_one(model: nn.Module, frames: list[Image.Image]) -> None:
    assert set(look_at(model, PREPROCESS, frames[:2], SIZE).labels) == set(VIEWS)
