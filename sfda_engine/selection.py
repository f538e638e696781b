"""Which weights a run ships, judged without a label after its last step: a snapshot, the BN warm start or the source.

What the rule rests on, and how often it is right: docs/label_free.md.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from sfda_engine.distributed import decided_by_main
from sfda_engine.label_free import refer, sample_frames, score
from sfda_engine.models.preprocess import Exposure, Preprocess
from sfda_engine.models.weights import WeightsInfo
from sfda_engine.trainer import Trainer

LEAST_OVERLAP = 0.6
"""Mean IoU with the labels of the BN warm start below which classes are taken to have vanished."""

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


def disagreement(scores: Scores) -> float:
    """Mutual information between predictions and views, in nats, that candidates are ranked by, the less the better.

    Infinity where the model labels too little as the BN warm start does, or is broken: a model that predicts road alone
    agrees with itself on every view.
    """
    value = scores["mutual_information"]
    return value if math.isfinite(value) and scores["iou_bn_warm_start"] >= LEAST_OVERLAP else math.inf


def decide(scores: Mapping[str, Scores]) -> tuple[str, str]:
    """Name of the model that ships, and the basis in words; `scores` by name as in `Judgement`."""
    ranked = {name: disagreement(own) for name, own in scores.items()}
    warm = ranked["bn_warm_start"]
    snapshots = [name for name in scores if name not in ("source", "bn_warm_start")]
    best = min(snapshots, key=lambda name: (ranked[name], -int(name)))
    if ranked[best] < warm:
        return (
            best,
            f"predictions on augmented views disagree less than the BN warm start's: {ranked[best]:.4f} against "
            f"{warm:.4f} nats",
        )
    kept = "source" if ranked["source"] < warm else "bn_warm_start"
    overlap = scores[best]["iou_bn_warm_start"]
    if ranked[best] < math.inf:
        why = f"predictions on augmented views disagree no less after adaptation: {ranked[best]:.4f} nats"
    else:
        why = f"adaptation lost classes: mean IoU {overlap:.2f} with the BN warm start's labels, below {LEAST_OVERLAP}"
    name = "source" if kept == "source" else "BN warm start"
    return kept, f"{why}; the {name} has {ranked[kept]:.4f} nats"


def judge(trainer: Trainer, warm_start: nn.Module, info: WeightsInfo) -> Judgement:
    """Score all snapshots, the BN warm start and the source on a sample of the target frames; all processes do.

    `warm_start` is the student as it began, `info` the source's own; each snapshot is judged as it would ship, with BN
    statistics estimated on the target by its own weights.
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
    last = {trainer.position.adaptation: trainer.accelerator.unwrap_model(trainer.networks.student).state_dict()}
    for step, state in (trainer.snapshots.taken | last).items():
        network = copy.deepcopy(warm_start)
        network.load_state_dict(state)
        trainer.finish_statistics(network)
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
