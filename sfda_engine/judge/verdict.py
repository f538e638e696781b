"""Which weights a run ships, judged without a label after its last step: a snapshot, the BN warm start or the source.

What the rule rests on, and how often it is right: docs/label_free.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL.Image import Image
from torch import Tensor, nn

from sfda_engine.distributed.collectives import decided_by_main
from sfda_engine.judge.scores import refer, score
from sfda_engine.models.preprocess import Exposure, Preprocess

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


def judge(
    source: nn.Module,
    warm_start: nn.Module,
    snapshots: Mapping[int, nn.Module],
    *,
    as_source: Preprocess,
    preprocess: Preprocess,
    frames: Sequence[Image],
    size: tuple[int, int],
) -> Judgement:
    """Score the source (by `as_source`), the BN warm start and the student by adaptation step (by `preprocess`) on RGB
    frames seen at `size` (width, height), and decide; all processes do.

    Each network is judged as it would ship, in eval mode.
    """
    networks = {"source": source, "bn_warm_start": warm_start, **{str(step): one for step, one in snapshots.items()}}
    references = {"bn_warm_start": refer(warm_start, preprocess, frames, size)}
    scores = {
        name: score(network, as_source if network is source else preprocess, frames, size, references)
        for name, network in networks.items()
    }
    name, basis = decided_by_main(lambda: decide(scores))
    kept = name in ("source", "bn_warm_start")
    return Judgement(
        verdict=f"keep_{name}" if kept else "adapted",
        basis=basis,
        step=None if kept else int(name),
        scores=scores,
        weights=networks[name].state_dict(),
        exposure=(as_source if name == "source" else preprocess).exposure,
    )
