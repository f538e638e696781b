"""The choice on made-up labels whose truth is known: views that repeat it win, and doubt favours the source."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sfda_engine.data.images import ImageSize
from sfda_engine.judge import choice as module
from sfda_engine.judge.choice import choose, opinion_masks, opinions_of, z_scores
from sfda_engine.models.preprocess import Exposure
from sfda_engine.views.candidates import EXPOSURES
from sfda_engine.views.probabilities import Predictions
from sfda_engine.views.view import View

SIZES = [ImageSize(64, 48), ImageSize(96, 64), ImageSize(128, 96)]
SHARES = (0.0, 0.5, 1.0)
VIEWS = [View(light, size, share) for light, size, share in itertools.product(EXPOSURES, SIZES, SHARES)]
CLASSES, FRAMES, GRID = 4, 6, (12, 16)


def predictions(wrong: dict[View, float], views: list[View] = VIEWS, seed: int = 0) -> Predictions:
    """Labels that are wrong, each in a way of its own, at a share of the pixels given by view."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(CLASSES, (FRAMES, *GRID), generator=generator)
    labels = []
    for view in views:
        noise = torch.randint(1, CLASSES, truth.shape, generator=generator)
        spoilt = torch.rand(truth.shape, generator=generator) < wrong[view]
        labels.append(torch.where(spoilt, (truth + noise) % CLASSES, truth).byte())
    maps = torch.stack(labels)
    return Predictions(tuple(views), CLASSES, maps, torch.zeros_like(maps))


def errors(best: View) -> dict[View, float]:
    """Error rates that grow away from `best`."""
    return {
        view: 0.05 + 0.1 * abs(SIZES.index(view.size) - SIZES.index(best.size)) + 0.3 * abs(view.share - best.share)
        for view in VIEWS
    }


@pytest.mark.parametrize("best", [View("none", SIZES[1], 0.5), View("none", SIZES[2], 0.0)])
def test_the_views_that_repeat_the_truth_win(best: View) -> None:
    choice = choose(predictions(errors(best)))
    assert (choice.view.size, choice.view.share) == (best.size, best.share)
    assert choice.untouched == View("none", best.size, 1.0)
    assert choice.changed[-1] == "share"


def test_a_stated_size_is_kept_and_all_views_are_ranked() -> None:
    best = View("none", SIZES[2], 0.5)
    choice = choose(predictions(errors(best)), stated=SIZES[0])
    assert choice.view.size == choice.leader.size == SIZES[0]
    assert choice.view.share == 0.5
    assert [view.size for view in choice.by_size] == [SIZES[2], SIZES[1], SIZES[0]]
    assert {row.view for row in choice.scores} == set(VIEWS)
    totals = [row.total for row in choice.scores]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize("exposure", EXPOSURES)
def test_views_that_say_the_same_leave_the_source_as_it_is(exposure: Exposure) -> None:
    seen = predictions(errors(VIEWS[4]))
    by_size = torch.stack([seen.labels[VIEWS.index(View("none", view.size, 0.5))] for view in VIEWS])
    choice = choose(replace(seen, labels=by_size), exposure)
    assert choice.view == choice.leader == choice.untouched
    assert choice.untouched.exposure == exposure
    assert choice.changed == ()


@pytest.mark.parametrize(("caution", "kept"), [(0.1, False), (50.0, True)])
def test_a_lead_that_is_not_clear_leaves_the_source_as_it_is(
    caution: float, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CAUTION", caution)
    choice = choose(predictions(errors(View("none", SIZES[1], 0.5))))
    assert choice.leader.share == 0.5
    assert (choice.view == choice.untouched) == kept


@pytest.mark.parametrize(("doubt", "exposure"), [(-50.0, "none"), (50.0, "gamma")])
def test_a_preferred_exposure_is_taken_where_another_leads_in_doubt(
    doubt: float, exposure: Exposure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DOUBT", doubt)
    wrong = {view: rate + 0.05 * (view.exposure == "gamma") for view, rate in errors(VIEWS[4]).items()}
    seen = predictions(wrong)
    choice = choose(seen, stated=VIEWS[4].size, preferred="gamma")
    assert choice.view.exposure == choice.leader.exposure == exposure
    assert choice.view.share == VIEWS[4].share
    assert choice.untouched == View("none", VIEWS[4].size, 1.0)
    assert choose(seen, stated=VIEWS[4].size).view.exposure == "none"
    unsuited = choose(seen, stated=VIEWS[4].size, suits=lambda view: view.exposure == "none", preferred="gamma")
    assert unsuited.view.exposure == "none"


def test_the_error_of_a_lead_against_its_closed_form() -> None:
    """Frames that are all alike leave the error of the two opinions."""
    seen = predictions(errors(VIEWS[4]))
    same = replace(seen, labels=seen.labels[:, :1].expand(-1, FRAMES, -1, -1))
    rows = [row for row in choose(same).scores if row.view.size == SIZES[1]]
    opinions = np.array([[row.near, row.far] for row in rows])
    scores = (opinions - opinions.mean(0)) / opinions.std(0)
    lead = scores[scores.sum(1).argmax()] - scores
    expected = lead.sum(1) / np.maximum(np.sqrt(2 * lead.var(1, ddof=1)), 1e-9)
    assert [row.behind for row in rows] == pytest.approx(expected.tolist())
    assert [row.within for row in rows] == pytest.approx(scores.sum(1).tolist())


def test_the_same_labels_give_the_same_choice() -> None:
    seen = predictions(errors(VIEWS[4]))
    assert choose(seen) == choose(seen)


def test_opinions_compare_with_the_views_they_name() -> None:
    masks = opinion_masks(VIEWS)
    row = VIEWS.index(View("none", SIZES[1], 0.5))
    near, far, light = ([view for view, used in zip(VIEWS, mask[row], strict=True) if used] for mask in masks)
    assert near == [View("none", SIZES[0], 0.5), View("none", SIZES[2], 0.5)]
    assert {(view.exposure, view.size) for view in far} == {("gamma", SIZES[0]), ("gamma", SIZES[2])}
    assert len(far) == 2 * len(SHARES)
    assert light == [View("gamma", SIZES[1], share) for share in SHARES]


def test_a_network_of_one_size_stays_the_source() -> None:
    """Near and far cannot be had there."""
    one_size = [view for view in VIEWS if view.size == SIZES[1]]
    choice = choose(predictions(errors(View("none", SIZES[1], 0.5)), one_size))
    assert all(math.isnan(row.near) and math.isnan(row.far) for row in choice.scores)
    assert choice.view == choice.untouched
    alone = [View("none", SIZES[1], 1.0)]
    assert choose(predictions(dict.fromkeys(alone, 0.1), alone)).view == alone[0]


def test_one_exposure_leaves_near_to_decide() -> None:
    """As for a network whose frames cannot be brought to another light."""
    dark = [view for view in VIEWS if view.exposure == "none"]
    choice = choose(predictions(errors(View("none", SIZES[1], 0.5)), dark))
    assert all(math.isnan(row.far) and math.isnan(row.light) for row in choice.scores)
    assert choice.view.share == 0.5


def test_opinions_and_z_scores_against_numpy() -> None:
    counts = torch.randint(1, 50, (4, 4, 3, 3), generator=torch.Generator().manual_seed(0))
    counts = counts + counts.permute(1, 0, 3, 2)
    masks = torch.tensor([[[0, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]]).bool()
    own = counts[0, 1].double().numpy()
    iou = [own[k, k] / (own[k].sum() + own[:, k].sum() - own[k, k]) for k in range(3)]
    other = counts[0, 2].double().numpy()
    iou += [other[k, k] / (other[k].sum() + other[:, k].sum() - other[k, k]) for k in range(3)]
    opinions = opinions_of(counts, masks)
    assert opinions[0, 0].item() == pytest.approx(sum(iou) / 6)
    values = opinions[0].numpy()
    assert z_scores(opinions)[0].tolist() == pytest.approx(((values - values.mean()) / values.std()).tolist())
