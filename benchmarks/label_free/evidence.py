"""What the rows say: rank correlation of every score with mIoU, what rules would have shipped, and their confusion."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torchmetrics.functional.regression import spearman_corrcoef

from benchmarks.label_free.rows import ScoredModel
from benchmarks.label_free.rules import Quality, choose, points_up

VERDICTS = {"snapshot": "adapted", "bn_warm_start": "keep_bn_warm_start", "source": "keep_source"}


class Correlation(NamedTuple):
    """Spearman's rank correlation of a score with mIoU, its sign turned so that 1 is perfect."""

    within_run: float
    """Mean over runs, of BN warm start and snapshots: what selection needs."""
    within_domain: dict[str, float]
    """Over the snapshots and BN warm starts of all runs on a domain: what a verdict needs."""


class Selection(NamedTuple):
    """What a rule would have shipped, over all runs; mIoU points."""

    regret: float
    """Mean lost against the best model of the run, source and BN warm start among them."""
    worst_regret: float
    gain: float
    """Mean over the BN warm start."""
    worst_gain: float
    harmed: int
    """Runs whose shipped model is more than 1 point below the BN warm start."""
    confusion: Counter[tuple[str, str]]
    """(what labels say of source, BN warm start and the chosen snapshot, the verdict) -> runs."""

    @property
    def right(self) -> float:
        """Share of verdicts that are right."""
        return sum(n for (truth, verdict), n in self.confusion.items() if truth == verdict) / self.confusion.total()


def group(rows: Iterable[ScoredModel], key: Callable[[ScoredModel], Hashable]) -> dict[Hashable, list[ScoredModel]]:
    """Rows by key, in order."""
    grouped: dict[Hashable, list[ScoredModel]] = defaultdict(list)
    for row in rows:
        grouped[key(row)].append(row)
    return dict(grouped)


def spearman(rows: Sequence[ScoredModel], score: str) -> float | None:
    """Rank correlation of a score with mIoU over rows; None where either is constant or fewer than 3 are finite."""
    pairs = [(row.scores[score], row.miou) for row in rows if math.isfinite(row.scores[score])]
    if len(pairs) < 3 or min(len(set(side)) for side in zip(*pairs, strict=True)) < 2:
        return None
    values, mious = (torch.tensor(side, dtype=torch.float64) for side in zip(*pairs, strict=True))
    return (1 if points_up(score) else -1) * spearman_corrcoef(values, mious).item()


def correlations(rows: Sequence[ScoredModel]) -> dict[str, Correlation]:
    """Of every score, best within runs first."""
    adaptable = [row for row in rows if row.model != "source"]
    runs, domains = group(adaptable, lambda row: row.key), group(adaptable, lambda row: row.domain)
    found = {}
    for score in rows[0].scores:
        own = [value for run in runs.values() if (value := spearman(run, score)) is not None]
        by_domain = {
            str(name): value for name, every in domains.items() if (value := spearman(every, score)) is not None
        }
        if own:
            found[score] = Correlation(statistics.fmean(own), by_domain)
    return dict(sorted(found.items(), key=lambda item: -item[1].within_run))


def selection(rows: Sequence[ScoredModel], quality: Quality, margin: float = 0.0) -> Selection:
    """A rule on every run."""
    regrets, gains, confusion = [], [], Counter[tuple[str, str]]()
    for run in group(rows, lambda row: row.key).values():
        choice = choose(run, quality, margin)
        warm = next(row for row in run if row.model == "bn_warm_start")
        regrets.append(max(row.miou for row in run) - choice.shipped.miou)
        gains.append(choice.shipped.miou - warm.miou)
        rivals = [row for row in run if row.model != "snapshot"] + [choice.snapshot]
        truth = max(rivals, key=lambda row: row.miou)
        confusion[VERDICTS[truth.model], VERDICTS[choice.shipped.model]] += 1
    return Selection(
        regret=statistics.fmean(regrets),
        worst_regret=max(regrets),
        gain=statistics.fmean(gains),
        worst_gain=min(gains),
        harmed=sum(gain < -1 for gain in gains),
        confusion=confusion,
    )


def selections(rows: Sequence[ScoredModel], rules: Mapping[str, tuple[Quality, float]]) -> dict[str, Selection]:
    """Of every rule (quality, margin), smallest regret first."""
    found = {name: selection(rows, *rule) for name, rule in rules.items()}
    return dict(sorted(found.items(), key=lambda item: item[1].regret))
