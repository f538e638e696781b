"""What ships, judged without a label and without a reference: the source, the start or a snapshot of the student.

Witnesses are the views of the untouched source that the choice has looked at: what most of them say of a frame is
probably right, and no model is the measure of the others. All models answer for the same frames, kept aside from
training. Agreement of a model with itself, when frames are shown otherwise, is no witness: a collapsed model has most.

Shapes: N frames, K classes, h/w the grid, R resamples of the frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from sfda_engine.judge.agreement import confusion_counts, macro_iou
from sfda_engine.models.preprocess import Normalization, Preprocess
from sfda_engine.views.probabilities import Predictions, at_once, inputs, mirrored_mean
from sfda_engine.views.view import View

Decision = Literal["adapted", "keep_start", "keep_source"]
SOURCE, START = "source", "start"
RESAMPLES = 64
"""Of the frames, with replacement: the spread of a lead."""
GAIN = 1.03
"""Least agreement with the witnesses, as a multiple of the source's."""
CAUTION = 1.0
"""Standard errors by which the agreement has to exceed the source's."""
INFORMATION = 0.97
"""Least mutual information, as a share of the source's: where classes merge or predictions blur, it falls first."""
EPSILON = 1e-8
KEPT = 0.87
"""Least agreement and mutual information of a snapshot, as shares of the start's. A student learns what no single view
says: good ones keep 0.88 to 1.0 of an agreement whose views it was taught by, spoilt ones at most 0.81."""


@dataclass(frozen=True)
class Defendant:
    """A model as it would ship."""

    network: nn.Module
    view: View
    """How it is shown the frames, and the share of the source's BN statistics that it has or was trained from."""


class Testimony(NamedTuple):
    """What a model says of N frames, mean over each and its mirror image."""

    labels: Tensor
    """(N, h, w) uint8 arg-max, on the grid."""
    entropy: Tensor
    """(N,) float32, mean over the grid in nats."""
    presence: Tensor
    """(N, K) float32, mean probability of each class over the grid."""


@dataclass(frozen=True)
class ModelScores:
    """What can be told of one model without labels."""

    agreement: float
    """Mean macro IoU with the witnesses' labels, 0..1."""
    lead: float
    """Standard errors by which its agreement exceeds the source's; 0 for the source."""
    information: float
    """Mutual information of frame and class in nats: entropy of the mean prediction less mean entropy."""


@dataclass(frozen=True)
class Verdict:
    """What a run ships, and why."""

    verdict: Decision
    model: str
    """Name of what ships: "source", "start", or that of a snapshot."""
    basis: str
    """In words."""
    scores: Mapping[str, ModelScores]


def judge(
    models: Mapping[str, Defendant], normalization: Normalization, frames: Sequence[Image.Image], witnesses: Predictions
) -> Verdict:
    """Which of the models ships: "source", "start" and any number of snapshots, the latest last, all in eval mode.

    `frames` are RGB of any size, kept aside from training; `witnesses` are what views of the source say of them, in
    their order, at two exposures or sizes at least.
    """
    looks = {name: seen(model, normalization, frames, witnesses) for name, model in models.items()}
    scores = score(looks, {name: model.view for name, model in models.items()}, witnesses)
    name, basis = decide(scores)
    decisions: dict[str, Decision] = {SOURCE: "keep_source", START: "keep_start"}
    return Verdict(decisions.get(name, "adapted"), name, basis, scores)


@torch.no_grad()
def seen(
    model: Defendant, normalization: Normalization, frames: Sequence[Image.Image], witnesses: Predictions
) -> Testimony:
    """What a model says of all frames, on the witnesses' grid."""
    device = next((parameter.device for parameter in model.network.parameters()), torch.device("cpu"))
    preprocess = Preprocess(normalization, model.view.exposure).to(device)
    height, width = witnesses.labels.shape[-2:]
    count = at_once(model.view.size)
    batches = (frames[first : first + count] for first in range(0, len(frames), count))
    shown = (inputs(batch, preprocess, model.view.size) for batch in batches)
    parts = [testimony(mirrored_mean(model.network, images, (height, width))) for images in shown]
    return Testimony(*map(torch.cat, zip(*parts, strict=True)))


def testimony(maps: Tensor) -> Testimony:
    """Labels and summaries of probabilities (B, K, h, w), on the CPU."""
    entropy = -(maps * (maps + EPSILON).log()).sum(1).mean((1, 2))
    return Testimony(maps.argmax(1).byte().cpu(), entropy.cpu(), maps.mean((2, 3)).cpu())


def score(looks: Mapping[str, Testimony], views: Mapping[str, View], witnesses: Predictions) -> dict[str, ModelScores]:
    """Scores of each model, "source" among them, by name: from what it says, and the view that it has."""
    frames = witnesses.labels.shape[1]
    draws = torch.randint(frames, (RESAMPLES, frames), generator=torch.Generator().manual_seed(0))
    weights = torch.stack([torch.ones(frames), *(draw.bincount(minlength=frames) for draw in draws)]).double()
    found = {name: agreement(own, views[name], witnesses, weights) for name, own in looks.items()}
    scores = {}
    for name, own in looks.items():
        ahead = found[name] - found[SOURCE]
        lead = ahead[0] / ahead[1:].std().clamp_min(EPSILON)
        scores[name] = ModelScores(found[name][0].item(), lead.item(), information(own))
    return scores


def agreement(own: Testimony, view: View, witnesses: Predictions, weights: Tensor) -> Tensor:
    """Mean macro IoU (1+R,) with the labels of the witnesses that suit a view; frames count `weights` (1+R, N).

    0 for a model whose outputs are not finite: the arg-max of NaN would be class 0.
    """
    if not own.entropy.isfinite().all():
        return torch.zeros(len(weights), dtype=torch.float64)
    overlaps = []
    for index in suited(view, witnesses.views):
        counts = confusion_counts(own.labels, witnesses.labels[index], witnesses.classes).double()  # (N, K, K)
        overlaps.append(macro_iou(torch.einsum("rn,nkl->rkl", weights, counts)))
    return torch.stack(overlaps).mean(0)


def suited(view: View, witnesses: Sequence[View]) -> list[int]:
    """Indices of the witnesses for a view: those of its own share, or the nearest, at other exposures and sizes.

    All shares together would prefer those in the middle, which have neighbours on both sides, to the source's own; and
    nobody is a witness in his own cause.
    """
    others = [index for index, one in enumerate(witnesses) if (one.exposure, one.size) != (view.exposure, view.size)]
    nearest = min(abs(witnesses[index].share - view.share) for index in others)
    return [index for index in others if abs(witnesses[index].share - view.share) == nearest]


def information(own: Testimony) -> float:
    """Mutual information of frame and class in nats (Bridle et al., 1991): diverse over the frames, sure in each."""
    mean = own.presence.mean(0)
    return (-(mean * (mean + EPSILON).log()).sum() - own.entropy.mean()).item()


def faults(own: ModelScores, source: ModelScores) -> list[str]:
    """What speaks against shipping a model instead of the untouched source, in words; empty where nothing does."""
    found = []
    if not (own.agreement >= GAIN * source.agreement and own.lead > CAUTION):
        found.append(
            f"other views of the source agree with it to a mean IoU of {own.agreement:.3f}, with the source to "
            f"{source.agreement:.3f}: a lead of {own.lead:.1f} standard errors"
        )
    if not own.information >= INFORMATION * source.information:
        found.append(f"it tells classes apart by {own.information:.2f} nats, the source by {source.information:.2f}")
    return found


def kept(own: ModelScores, start: ModelScores) -> bool:
    """Whether training has left a snapshot what the start had, but for what it had to unlearn."""
    return own.agreement >= KEPT * start.agreement and own.information >= KEPT * start.information


def decide(scores: Mapping[str, ModelScores]) -> tuple[str, str]:
    """Name of the model that ships, and the basis in words; the "source" and the "start" are among the scores.

    The start, or where it does not the snapshot, has to be credibly better than the source; then the latest snapshot
    ships that training has not spoilt, else the start. In doubt the source.
    """
    source, start = scores[SOURCE], scores[START]
    doubts = faults(start, source)
    names = [name for name in scores if name not in (SOURCE, START) and kept(scores[name], start)]
    snapshots = [name for name in names if not doubts or not faults(scores[name], source)]
    if not snapshots and doubts:
        return SOURCE, "neither start nor snapshots are credibly better than the untouched source: " + "; ".join(doubts)
    better = START if not doubts else snapshots[-1]
    own = scores[better]
    basis = (
        f"other views of the source agree with {better} to a mean IoU of {own.agreement:.3f}, with the source itself "
        f"to {source.agreement:.3f}: a lead of {own.lead:.1f} standard errors; it tells classes apart by "
        f"{own.information:.2f} nats, the source by {source.information:.2f}"
    )
    if not snapshots:
        return START, basis + "; no snapshot kept that"
    last = scores[snapshots[-1]]
    return snapshots[-1], (
        f"{basis}; step {snapshots[-1]} kept {last.agreement / start.agreement:.2f} of the start's agreement and "
        f"{last.information / start.information:.2f} of its information"
    )
