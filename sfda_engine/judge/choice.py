"""Which view the source network starts from, chosen without labels by what the views say of each other.

What holds when a frame is shown otherwise is probably right. Three opinions of each view, all mean macro IoU of label
maps: *near*, with the same exposure and share at the neighbouring sizes; *far*, with every other exposure and size;
*exposure*, with the same size and share at the other exposures. Each alone is cheated by something; their sum of
z-scores leads. In doubt the view nearest to the untouched source wins (the one-standard-error rule, Breiman et al.,
"Classification and Regression Trees", 1984, chapter 3).

Shapes: V views, N frames, K classes, O opinions, R resamples.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sfda_engine.judge.agreement import macro_iou, pairwise_counts
from sfda_engine.models.preprocess import Exposure
from sfda_engine.views.probabilities import Predictions
from sfda_engine.views.view import View, by_pixels, departure, untouched

RESAMPLES = 64
"""Of the frames, with replacement: the spread of a lead."""
CAUTION = 1.0
"""Standard errors that a view has to lead a more cautious one by."""


@dataclass(frozen=True)
class ViewScore:
    """What the opinions say of one view; agreements 0..1, NaN where there is no view to compare with."""

    view: View
    near: float
    far: float
    exposure: float
    total: float
    """Sum of the z-scores of the opinions over all views."""
    behind: float
    """Standard errors that its total lies below the leader's; 0 for the leader itself."""


@dataclass(frozen=True)
class Choice:
    """The view to start from, and why."""

    view: View
    leader: View
    """The highest total among the views that could be chosen; `view` unless caution was cheap."""
    untouched: View
    """The source as it came, at the size of `view`."""
    changed: tuple[str, ...]
    """Fields in which `view` differs from `untouched`."""
    scores: tuple[ViewScore, ...]
    """Of all views at all sizes, the highest total first."""


def choose(predictions: Predictions, exposure: Exposure, among: Collection[View]) -> Choice:
    """The view to start from, one of `among`.

    `exposure` is the one that the source states. `predictions` of the untouched source at every size are among them.
    """
    views = predictions.views
    counts = pairwise_counts(predictions.labels, predictions.classes)
    masks = opinion_masks(views)
    opinions = opinions_of(counts.sum(2), masks)
    eligible = [index for index, view in enumerate(views) if view in among]
    totals = z_scores(opinions).sum(0)
    leader = max(eligible, key=lambda index: (totals[index].item(), -departure(views[index], exposure)))
    behind = standard_errors_behind(counts, masks, opinions, leader)
    close = [index for index in eligible if behind[index] <= CAUTION]
    chosen = min(close, key=lambda index: (departure(views[index], exposure), behind[index].item()))
    return Choice(
        view=views[chosen],
        leader=views[leader],
        untouched=untouched(views[chosen], exposure),
        changed=changed(views[chosen], untouched(views[chosen], exposure)),
        scores=table(views, opinions, totals, behind),
    )


def opinion_masks(views: Sequence[View]) -> Tensor:
    """(O, V, V) bool: whose labels each view (row) is compared with in near, far, exposure."""
    sizes = by_pixels([view.size for view in views])
    place = [sizes.index(view.size) for view in views]
    masks = torch.zeros(3, len(views), len(views), dtype=torch.bool)
    for row, own in enumerate(views):
        for column, other in enumerate(views):
            same_light, same_share = own.exposure == other.exposure, own.share == other.share
            steps = abs(place[row] - place[column])
            masks[0, row, column] = same_light and same_share and steps == 1
            masks[1, row, column] = not same_light and steps > 0
            masks[2, row, column] = not same_light and same_share and steps == 0
    return masks


def opinions_of(counts: Tensor, masks: Tensor) -> Tensor:
    """(O, V) float64: mean macro IoU with the views of each mask, from counts (V, V, K, K); NaN where there is none."""
    agreement = macro_iou(counts)
    return (masks * agreement).sum(2) / masks.sum(2)


def z_scores(opinions: Tensor) -> Tensor:
    """Opinions (O, V) less their mean over the views, over their deviation; 0 where an opinion does not tell."""
    known = opinions.isfinite()
    count = known.sum(1, keepdim=True).clamp_min(1)
    values = opinions.nan_to_num()
    centred = (values - values.sum(1, keepdim=True) / count) * known
    deviation = (centred.square().sum(1, keepdim=True) / count).sqrt()
    return centred / deviation.clamp_min(1e-9)


def standard_errors_behind(counts: Tensor, masks: Tensor, opinions: Tensor, leader: int) -> Tensor:
    """(V,): how many standard errors of the difference each view's total lies below the leader's.

    The error has two parts: that of the frames, by resampling counts (V, V, N, K, K) over them, and that of the
    opinions, which are few and differ.
    """
    lead = z_scores(opinions)[:, [leader]] - z_scores(opinions)  # (O, V)
    frames = counts.shape[2]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(frames, (RESAMPLES, frames), generator=generator)
    totals = []
    for draw in drawn:
        weights = torch.bincount(draw, minlength=frames).double()
        resampled = torch.einsum("vwnkl,n->vwkl", counts.double(), weights)
        totals.append(z_scores(opinions_of(resampled, masks)).sum(0))
    resampled_leads = torch.stack([total[leader] - total for total in totals])
    variance = resampled_leads.var(0) + len(lead) * lead.var(0)
    return lead.sum(0) / variance.sqrt().clamp_min(1e-9)


def changed(view: View, source: View) -> tuple[str, ...]:
    """Names of the fields in which two views differ."""
    return tuple(name for name in vars(view) if getattr(view, name) != getattr(source, name))


def table(views: Sequence[View], opinions: Tensor, totals: Tensor, behind: Tensor) -> tuple[ViewScore, ...]:
    """A row for each view, the highest total first."""
    columns = (*opinions.tolist(), totals.tolist(), behind.tolist())
    rows = [ViewScore(view, *numbers) for view, *numbers in zip(views, *columns, strict=True)]
    return tuple(sorted(rows, key=lambda row: -row.total))
