"""Which weights a run ships, judged without a label after its last step: a snapshot, the BN warm start or the source.

What the rule rests on, and how often it is right: docs/label_free.md.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from sfda_engine.distributed.collectives import decided_by_main
from sfda_engine.judge.scores import refer, sample_frames, score
from sfda_engine.models.preprocess import Exposure, Preprocess
from sfda_engine.models.weights import WeightsInfo
from sfda_engine.training.loop import Trainer

OVERLAP = 0.65
"""Least mean IoU with the labels of the BN warm start: below it, classes have vanished."""
DISAGREEMENT, CONSISTENCY = 0.9, 1.03
"""At most this much of the BN warm start's mutual information between views, and at least this much of its mean IoU
between sizes. Margins: whatever descends on its own predictions agrees with itself a little better, for nothing."""

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Judgement:
    """What a run ships, and why."""

    verdict: str
    """adapted, keep_bn_warm_start or keep_source."""
    basis: str
    """In words."""
    step: int | None
    """Of the snapshot that ships; None where none does."""
    scores: Mapping[str, Scores]
    """By model: source, bn_warm_start, and each snapshot by its step."""
    weights: dict[str, Tensor]
    exposure: Exposure
    """Exposure correction that the weights are shipped with: the source's own where it is kept."""


def faults(scores: Scores, warm: Scores) -> list[str]:
    """What speaks against shipping a model instead of the BN warm start, in words; empty where nothing does.

    Any one score is cheated by some method: entropy and mutual information by all that sharpen predictions, agreement
    between views by a model that predicts road alone, diversity by those that descend on it (docs/label_free.md).
    """
    found = []
    overlap = scores["iou_bn_warm_start"]
    if not overlap >= OVERLAP:
        found.append(f"classes vanished: mean IoU {overlap:.2f} with the BN warm start's labels")
    own, theirs = scores["mutual_information"], warm["mutual_information"]
    if not own <= DISAGREEMENT * theirs:
        found.append(f"augmented views disagree by {own:.4f} nats, before by {theirs:.4f}")
    own, theirs = scores["iou_scale"], warm["iou_scale"]
    if not own >= CONSISTENCY * theirs:
        found.append(f"other sizes are labeled alike to a mean IoU of {own:.3f}, before {theirs:.3f}")
    return found


def decide(scores: Mapping[str, Scores]) -> tuple[str, str]:
    """Name of the model that ships, and the basis in words; `scores` by name as in `Judgement`.

    Of the snapshots without fault the one whose views disagree least, the latest of equals.
    """
    warm = scores["bn_warm_start"]
    steps = sorted((name for name in scores if name not in ("source", "bn_warm_start")), key=int, reverse=True)
    credible = [name for name in steps if not faults(scores[name], warm)]
    if credible:
        best = min(credible, key=lambda name: scores[name]["mutual_information"])
        own = scores[best]
        return best, (
            f"step {best} against the BN warm start: augmented views disagree by {own['mutual_information']:.4f} nats "
            f"for {warm['mutual_information']:.4f}, other sizes are labeled alike to a mean IoU of "
            f"{own['iou_scale']:.3f} for {warm['iou_scale']:.3f}, and no class vanished"
        )
    kept = "bn_warm_start" if faults(scores["source"], warm) else "source"
    told = "; ".join(faults(scores[steps[0]], warm))
    basis = f"adaptation is not credibly better than the BN warm start: {told}"
    if kept == "source":
        basis += "; the source model itself is no worse than the BN warm start by the same measures"
    return kept, basis


def judge(trainer: Trainer, warm_start: nn.Module, info: WeightsInfo) -> Judgement:
    """Score all snapshots, the BN warm start and the source on a sample of the target frames; all processes do.

    `warm_start` is the student as it began, `info` the source's own. Each snapshot is judged as it would ship, with BN
    statistics estimated on the target by its own weights; the trainer's student, the last of them, has them already.
    """
    size, preprocess, source = trainer.config.target.size, trainer.preprocess, trainer.networks.source
    as_source = Preprocess(info.normalization, info.exposure).to(trainer.accelerator.device)
    frames = sample_frames(trainer.target)
    references = {"bn_warm_start": refer(warm_start, preprocess, frames, size)}
    weights = {"source": source.state_dict(), "bn_warm_start": warm_start.state_dict()}
    scores = {
        "source": score(source, as_source, frames, size, references),
        "bn_warm_start": score(warm_start, preprocess, frames, size, references),
    }
    last, snapshots = trainer.position.adaptation, {}
    for step, state in trainer.snapshots.taken.items():
        if step != last:
            snapshots[step] = copy.deepcopy(warm_start)
            snapshots[step].load_state_dict(state)
            trainer.finish_statistics(snapshots[step])
    snapshots[last] = trainer.accelerator.unwrap_model(trainer.networks.student)
    for step, network in snapshots.items():
        weights[str(step)] = network.state_dict()
        scores[str(step)] = score(network, preprocess, frames, size, references)
    name, basis = decided_by_main(lambda: decide(scores))
    kept = name in ("source", "bn_warm_start")
    return Judgement(
        verdict=f"keep_{name}" if kept else "adapted",
        basis=basis,
        step=None if kept else int(name),
        scores=scores,
        weights=weights[name],
        exposure=(as_source if name == "source" else preprocess).exposure,
    )
