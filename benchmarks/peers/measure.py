"""One row: a method adapts, then the labels are opened and what it left is scored."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

from torch import nn

from benchmarks.common.machine import provenance
from benchmarks.common.methods.domains import settings
from benchmarks.common.methods.run import adapt, open_domain, score, weights_of, with_source
from benchmarks.common.methods.source_driven import SOURCE_DRIVEN
from benchmarks.common.methods.target import warm_start
from benchmarks.peers.rows import PeerRow
from sfda_engine.config.schema import Config
from sfda_engine.pipelines.cost import peak_memory_mb


def measure(
    name: str,
    method: Callable[..., Iterator[nn.Module]],
    config: Config,
    domain: str,
    *,
    steps: int,
    seed: int,
    limit: float,
) -> PeerRow:
    """Adapt and score. Target labels are opened after the last step; UserError for bad data or weights.

    `method` is a SourceMethod where SOURCE_DRIVEN has its name, and gets the frames of `config.source`; else a Method.
    """
    source, info, target = open_domain(config, steps=steps, seed=seed)
    source_free = name not in SOURCE_DRIVEN
    if not source_free:
        method = with_source(method, config, info)
    adapted = adapt(method, source, target, limit=limit)
    memory = peak_memory_mb(target.accelerator.device)
    warm = copy.deepcopy(source)
    warm_start(warm, target)
    shipped, miou_warm, *scored = score(config, source, info, target, [weights_of(warm), *adapted.snapshots.values()])
    miou = dict(zip(adapted.snapshots, scored, strict=True))
    best = max(miou, key=lambda step: miou[step])
    return PeerRow(
        method=name,
        domain=domain,
        seed=seed,
        settings=settings(config, steps),
        source_free=source_free,
        miou_source=shipped,
        miou_bn_warm_start=miou_warm,
        miou_final=miou[adapted.steps],
        miou_best=miou[best],
        best_step=best,
        steps=adapted.steps,
        seconds=adapted.seconds,
        idle_seconds=adapted.idle_seconds,
        peak_memory_mb=memory,
        note=adapted.note,
        **provenance(),
    )
