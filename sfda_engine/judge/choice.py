"""Which view the source network starts from, chosen without labels by what the views say of each other.

What holds when a frame is shown otherwise is probably right. Opinions of a view are mean macro IoUs of its labels with
those of other views: *near*, the same exposure and share at the neighbouring sizes; *far*, another exposure at the
neighbouring sizes; *light*, another exposure at the same size. Each alone is cheated by something: sizes differ more
than shares do, and target statistics take the light away whether they help or not. So like is compared with like:
within a size by near and far, in z-scores among its own views; then what is chosen at each size by all three, in
z-scores among all views.

Within a size the view nearest to the untouched source wins among those that the leader does not lead clearly (as in the
one-standard-error rule, Breiman et al., "Classification and Regression Trees", 1984, with a smaller part of an error).

Shapes: V views, N frames, K classes, O opinions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfda_engine.data.images import ImageSize
from sfda_engine.judge.agreement import macro_iou, pairwise_counts
from sfda_engine.models.preprocess import Exposure
from sfda_engine.views.probabilities import Predictions
from sfda_engine.views.view import View, by_pixels, departure, pixels, untouched

WITHIN = 2
"""Opinions that decide within a size: near and far, the first of them."""
CAUTION = 0.1
"""Standard errors from which a lead is clear. More loses gain, and only 2 would refuse what harms."""
DOUBT = 1.0
"""Standard errors up to which a preferred exposure is taken though another leads."""


@dataclass(frozen=True)
class ViewScore:
    """What the opinions say of one view; agreements 0..1, NaN where there is no view to compare with."""

    view: View
    near: float
    far: float
    light: float
    within: float
    """Sum of the z-scores of near and far among the views of its size."""
    total: float
    """Sum of the z-scores of all opinions among all views."""
    behind: float
    """Standard errors by which the leader of its size leads it; 0 for that leader."""


@dataclass(frozen=True)
class Choice:
    """The view to start from, and why."""

    view: View
    leader: View
    """The highest score at that size; another than `view` where its lead is not clear."""
    untouched: View
    """The source as it came, at that size."""
    changed: tuple[str, ...]
    """Fields in which `view` differs from `untouched`."""
    by_size: tuple[View, ...]
    """What is chosen at each size, the best first: the first is the choice where no size is stated."""
    scores: tuple[ViewScore, ...]
    """Of all views, the highest total first."""


def choose(
    predictions: Predictions,
    exposure: Exposure = "none",
    stated: ImageSize | None = None,
    suits: Callable[[View], bool] = lambda view: True,
    preferred: Exposure | None = None,
) -> Choice:
    """The view to start from: at the `stated` (width, height), or at any size where that is None, one that `suits`.

    `exposure` is the one that the source states; the untouched source at every size is among the predictions' views.
    One of the `preferred` exposure is taken where what leads it at its size is in doubt.
    """
    views = predictions.views
    counts = pairwise_counts(predictions.labels)
    masks = opinion_masks(views)
    opinions = opinions_of(counts.sum(2), masks)
    within, total = scores_within(views, opinions).sum(0), z_scores(opinions).sum(0)
    eligible = [index for index, view in enumerate(views) if suits(view)]
    leaders = leader_of_each(views, eligible, within, exposure)
    behind = errors_behind(views, counts, masks, opinions, leaders)
    if preferred is not None:
        eligible = of_exposure(preferred, views, eligible, behind)
        leaders = leader_of_each(views, eligible, within, exposure)
        behind = errors_behind(views, counts, masks, opinions, leaders)
    chosen = {size: cautious(size, views, eligible, within, behind, exposure) for size in leaders}
    ranked = sorted(chosen, key=lambda size: (-total[chosen[size]].item(), pixels(size)))
    size = stated or ranked[0]
    view, source = views[chosen[size]], untouched(views[chosen[size]], exposure)
    columns = (*opinions.tolist(), within.tolist(), total.tolist(), behind.tolist())
    rows = [ViewScore(row, *numbers) for row, *numbers in zip(views, *columns, strict=True)]
    return Choice(
        view=view,
        leader=views[leaders[size]],
        untouched=source,
        changed=tuple(name for name in vars(view) if getattr(view, name) != getattr(source, name)),
        by_size=tuple(views[chosen[other]] for other in ranked),
        scores=tuple(sorted(rows, key=lambda row: -row.total)),
    )


def opinion_masks(views: Sequence[View]) -> Tensor:
    """(O, V, V) bool: whose labels each view (row) is compared with in near, far and light."""
    sizes = by_pixels([view.size for view in views])
    place = torch.tensor([sizes.index(view.size) for view in views])
    steps = (place[:, None] - place).abs()
    same_light = torch.tensor([[own.exposure == other.exposure for other in views] for own in views])
    same_share = torch.tensor([[own.share == other.share for other in views] for own in views])
    return torch.stack([same_light & same_share & (steps == 1), ~same_light & (steps == 1), ~same_light & (steps == 0)])


def opinions_of(counts: Tensor, masks: Tensor) -> Tensor:
    """(O, V) float64: mean macro IoU with the views of each mask, from counts (V, V, K, K); NaN where there is none."""
    return (masks * macro_iou(counts)).sum(2) / masks.sum(2)


def z_scores(opinions: Tensor) -> Tensor:
    """Opinions (O, V) less their mean over the views, over their deviation; 0 where an opinion does not tell."""
    known = opinions.isfinite()
    count = known.sum(1, keepdim=True).clamp_min(1)
    values = opinions.nan_to_num()
    centred = (values - values.sum(1, keepdim=True) / count) * known
    deviation = (centred.square().sum(1, keepdim=True) / count).sqrt()
    return centred / deviation.clamp_min(1e-9)


def scores_within(views: Sequence[View], opinions: Tensor) -> Tensor:
    """z-scores (WITHIN, V) of opinions (O, V) among the views of the same size."""
    opinions = opinions[:WITHIN]
    scores = torch.zeros_like(opinions)
    for size in {view.size for view in views}:
        same = torch.tensor([view.size == size for view in views])
        scores[:, same] = z_scores(opinions[:, same])
    return scores


def leader_of_each(
    views: Sequence[View], eligible: Sequence[int], within: Tensor, exposure: Exposure
) -> dict[ImageSize, int]:
    """Index of the highest score of the eligible at each size; of equal ones, the nearest to the untouched source."""
    leaders: dict[ImageSize, int] = {}
    for index in sorted(eligible, key=lambda index: (within[index].item(), -departure(views[index], exposure))):
        leaders[views[index].size] = index
    return leaders


def of_exposure(exposure: Exposure, views: Sequence[View], eligible: Sequence[int], behind: Tensor) -> list[int]:
    """Those of the eligible at each size that have an exposure, if one of them is at most DOUBT behind; else all."""
    own = [index for index in eligible if views[index].exposure == exposure]
    sizes = {views[index].size for index in own if behind[index] <= DOUBT}
    return [index for index in eligible if views[index].size not in sizes or views[index].exposure == exposure]


def errors_behind(
    views: Sequence[View], counts: Tensor, masks: Tensor, opinions: Tensor, leaders: dict[ImageSize, int]
) -> Tensor:
    """(V,) standard errors by which the leader of its size leads each view.

    The error has two parts: that of the frames, by the jackknife over counts (V, V, N, K, K), and that of the
    opinions, which are few and differ.
    """
    ahead = [leaders.get(view.size, index) for index, view in enumerate(views)]

    def lead(found: Tensor) -> Tensor:
        scores = scores_within(views, found)
        return scores[:, ahead] - scores

    own, everything, frames = lead(opinions), counts.sum(2), counts.shape[2]
    without = [lead(opinions_of(everything - counts[:, :, frame], masks)).sum(0) for frame in range(frames)]
    variance_of_frames = (frames - 1) * torch.stack(without).var(0, correction=0)
    variance_of_opinions = len(own) * own.var(0)
    return own.sum(0) / (variance_of_frames + variance_of_opinions).sqrt().clamp_min(1e-9)


def cautious(
    size: ImageSize, views: Sequence[View], eligible: Sequence[int], within: Tensor, behind: Tensor, exposure: Exposure
) -> int:
    """Index of the eligible view nearest to the untouched source that is not clearly behind the leader of `size`."""
    close = [index for index in eligible if views[index].size == size and behind[index] <= CAUTION]
    return min(close, key=lambda index: (departure(views[index], exposure), -within[index].item()))
