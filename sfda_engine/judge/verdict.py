"""What ships, judged without a label and without a reference: the source, the start or a snapshot of the student.

Witnesses are the views of the untouched source that the choice has looked at: what most of them say of a frame is
probably right, and no model is the measure of the others. All models answer for the same frames, kept aside from
training. Agreement of a model with itself, when frames are shown otherwise, is no witness: a collapsed model has most.

Shapes: N frames, K classes, h/w the grid, R resamples of the frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn

from sfda_engine.judge.agreement import confusion_counts, macro_iou
from sfda_engine.models.preprocess import Normalization, Preprocess
from sfda_engine.views.probabilities import EPSILON, Look, Predictions, at_once, inputs, look, mirrored_mean
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
KEPT = 0.95
"""Least agreement of a snapshot, as a share of the start's. A student learns what no single view says, and so agrees
with views a little less than the start, which is one of them; one that training spoils falls far below."""


@dataclass(frozen=True)
class Defendant:
    """A model as it would ship."""

    network: nn.Module
    view: View
    """How it is shown the frames, and the share of the source's BN statistics that it has or was trained from."""


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
def seen(model: Defendant, normalization: Normalization, frames: Sequence[Image.Image], witnesses: Predictions) -> Look:
    """What a model says of all frames, mean over each and its mirror image, on the witnesses' grid."""
    device = next((parameter.device for parameter in model.network.parameters()), torch.device("cpu"))
    preprocess = Preprocess(normalization, model.view.exposure).to(device)
    height, width = witnesses.labels.shape[-2:]
    count = at_once(model.view.size)
    batches = (frames[first : first + count] for first in range(0, len(frames), count))
    shown = (inputs(batch, preprocess, model.view.size) for batch in batches)
    parts = [look(mirrored_mean(model.network, images, (height, width))) for images in shown]
    return Look(*map(torch.cat, zip(*parts, strict=True)))


def score(looks: Mapping[str, Look], views: Mapping[str, View], witnesses: Predictions) -> dict[str, ModelScores]:
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


def agreement(own: Look, view: View, witnesses: Predictions, weights: Tensor) -> Tensor:
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


def information(own: Look) -> float:
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


def decide(scores: Mapping[str, ModelScores]) -> tuple[str, str]:
    """Name of the model that ships, and the basis in words.

    The latest snapshot without fault that training has not taken from the start's agreement; else the start, where it
    is without fault; in doubt the source.
    """
    source, start = scores[SOURCE], scores[START]
    sound = [name for name in scores if name != SOURCE and not faults(scores[name], source)]
    snapshots = [name for name in sound if name != START and scores[name].agreement >= KEPT * start.agreement]
    if snapshots or START in sound:
        best = snapshots[-1] if snapshots else START
        own = scores[best]
        return best, (
            f"other views of the source agree with {best} to a mean IoU of {own.agreement:.3f}, with the source itself "
            f"to {source.agreement:.3f}: a lead of {own.lead:.1f} standard errors; it tells classes apart by "
            f"{own.information:.2f} nats, the source by {source.information:.2f}"
        )
    last = list(scores)[-1]
    against = "; ".join(faults(scores[last], source)) or (
        f"training took it from an agreement of {start.agreement:.3f} to {scores[last].agreement:.3f}"
    )
    return SOURCE, f"nothing is credibly better than the untouched source; {last}: {against}"
