"""Rules that pick a model without labels: a quality of each candidate, seen beside the BN warm start's scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from benchmarks.label_free.rows import ScoredModel
from sfda_engine.judge.scores import HIGHER_IS_BETTER
from sfda_engine.judge.verdict import faults

Scores = Mapping[str, float]
Quality = Callable[[Scores, Scores], float]
"""(scores of a candidate, scores of the BN warm start) -> the higher the better; -inf = not to be shipped."""


class Choice(NamedTuple):
    """What a rule does with a run."""

    snapshot: ScoredModel
    """The snapshot that would ship as adapted."""
    shipped: ScoredModel
    """That one, the BN warm start or the source: the verdict."""


def points_up(score: str) -> bool:
    """Whether a score is said to be higher for a better model, references included."""
    return HIGHER_IS_BETTER.get(score, not score.startswith("bns_"))


def by_score(score: str) -> Quality:
    """The score itself, turned so that higher is better; NaN is never shipped."""
    sign = 1.0 if points_up(score) else -1.0

    def quality(scores: Scores, _: Scores) -> float:
        value = scores[score]
        return sign * value if math.isfinite(value) else -math.inf

    return quality


def guarded(quality: Quality, score: str, least: float) -> Quality:
    """`quality` of candidates whose `score` is at least `least`; the rest is not to be shipped."""

    def both(scores: Scores, warm: Scores) -> float:
        return quality(scores, warm) if scores[score] >= least else -math.inf

    return both


def choose(models: Sequence[ScoredModel], quality: Quality, margin: float = 0.0) -> Choice:
    """Apply a quality to the models of one run: adapted only where it beats the BN warm start by more than `margin`."""
    source = next(one for one in models if one.model == "source")
    warm = next(one for one in models if one.model == "bn_warm_start")

    def of(one: ScoredModel) -> float:
        return quality(one.scores, warm.scores)

    best = max((one for one in models if one.model == "snapshot"), key=of)
    if of(best) > of(warm) + margin:
        return Choice(best, best)
    return Choice(best, source if of(source) > of(warm) else warm)


def _always_warm(scores: Scores, warm: Scores) -> float:
    return 0.0 if scores is warm else -1.0


def _shipped(scores: Scores, warm: Scores) -> float:
    """`judge.verdict.decide`: without fault, the least disagreement; the BN warm start before all others."""
    if scores is warm:
        return -1.0
    return -math.inf if faults(scores, warm) else -scores["mutual_information"]


RULES: dict[str, tuple[Quality, float]] = {
    "shipped (sfda_engine.judge.verdict)": (_shipped, 0.0),
    "the BN warm start, always": (_always_warm, 0.0),
    **{score: (by_score(score), 0.0) for score in HIGHER_IS_BETTER},
    **{f"{score}_bn_warm_start": (by_score(f"{score}_bn_warm_start"), 0.0) for score in ("agreement", "iou", "bns")},
}
"""Quality and margin by name."""
