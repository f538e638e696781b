"""One run: adapt, score every model without labels, then open the labels for their mIoU."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import time

from PIL import Image
from torch import nn

from benchmarks.common.machine import commit
from benchmarks.common.methods.domains import settings
from benchmarks.common.methods.run import Weights, adapt, open_domain, weights_of
from benchmarks.common.methods.run import score as true_scores
from benchmarks.common.methods.target import Method, Target, warm_start
from benchmarks.label_free.rows import ScoredModel
from sfda_engine.config.schema import Config
from sfda_engine.judge.scores import Reference, refer, sample_frames, score
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.weights import WeightsInfo


@dataclasses.dataclass(frozen=True)
class Start:
    """What all runs on one domain and seed share."""

    source: nn.Module
    info: WeightsInfo
    """Of the source file, exposure as shipped."""
    target: Target
    frames: list[Image.Image]
    references: dict[str, Reference]
    fallbacks: tuple[ScoredModel, ScoredModel]
    """Source and BN warm start, without a run's name."""


@functools.lru_cache(maxsize=1)  # runs come domain by domain
def start(config: Config, domain: str, steps: int, seed: int) -> Start:
    """The source network, its BN warm start, both scored."""
    source, info, target = open_domain(config, steps=steps, seed=seed)
    warm = copy.deepcopy(source)
    warm_start(warm, target)
    warm.eval()
    shipped = Preprocess(info.normalization, info.exposure).to(target.accelerator.device)
    frames = sample_frames(target.images)
    references = {
        "source": refer(source, shipped, frames, target.size),
        "bn_warm_start": refer(warm, target.preprocess, frames, target.size),
    }
    mious = true_scores(config, source, info, target, [weights_of(warm)])
    described = functools.partial(
        ScoredModel, run="", domain=domain, seed=seed, settings=settings(config, steps), step=0, commit=commit()
    )
    fallbacks = []
    for name, network, preprocess, miou in zip(
        references, (source, warm), (shipped, target.preprocess), mious, strict=True
    ):
        scores, seconds = timed_score(network, preprocess, frames, target, references)
        fallbacks.append(described(model=name, miou=miou, scores=scores, scoring_seconds=seconds))
    return Start(source, info, target, frames, references, (fallbacks[0], fallbacks[1]))


def measure(name: str, method: Method, config: Config, domain: str, *, steps: int, seed: int) -> list[ScoredModel]:
    """The rows of a run: source, BN warm start and a snapshot at each quarter of the steps."""
    begin = start(config, domain, steps, seed)
    adapted = adapt(method, begin.source, begin.target, limit=math.inf)
    scored = [score_weights(begin, weights) for weights in adapted.snapshots.values()]
    # labels are opened here, when every score is there
    mious = true_scores(config, begin.source, begin.info, begin.target, list(adapted.snapshots.values()))[1:]
    rows = [dataclasses.replace(row, run=name) for row in begin.fallbacks]
    for step, (scores, seconds), miou in zip(adapted.snapshots, scored, mious, strict=True):
        rows.append(
            dataclasses.replace(rows[1], model="snapshot", step=step, miou=miou, scores=scores, scoring_seconds=seconds)
        )
    return rows


def score_weights(begin: Start, weights: Weights) -> tuple[dict[str, float], float]:
    """Scores of the network with these weights, and the seconds that they took."""
    network = copy.deepcopy(begin.source)
    network.load_state_dict(weights)
    return timed_score(network, begin.target.preprocess, begin.frames, begin.target, begin.references)


def timed_score(
    network: nn.Module,
    preprocess: Preprocess,
    frames: list[Image.Image],
    target: Target,
    references: dict[str, Reference],
) -> tuple[dict[str, float], float]:
    """Scores, and the processor time that they took."""
    since = time.process_time()
    scores = score(network.eval(), preprocess, frames, target.size, references)
    return scores, time.process_time() - since
