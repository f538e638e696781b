"""One run of one method: adapt, then open the labels and score what it left. The only reader of target labels here."""

from __future__ import annotations

import copy
import datetime
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from benchmarks.peers.domains import settings
from benchmarks.peers.rows import PeerRow
from benchmarks.peers.source_driven import SOURCE_DRIVEN, SourceMethod
from benchmarks.peers.source_driven.source import LabelledSource
from benchmarks.peers.target import Method, Target, warm_start
from benchmarks.row import commit, device_name, versions
from sfda_engine.config.loader import resolve_weights
from sfda_engine.config.schema import Config
from sfda_engine.data.datasets import open_evaluate, open_source, open_target
from sfda_engine.errors import UserError
from sfda_engine.evaluation.scoring import evaluate_images
from sfda_engine.models.norms import require_batch_norm
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.weights import WeightsInfo
from sfda_engine.pipelines.cost import peak_memory_mb
from sfda_engine.pipelines.inputs import Inputs, accelerator_for
from sfda_engine.pipelines.networks import load_segmenter

SNAPSHOTS = 4
"""Networks that are scored: at each quarter of the steps, the last among them."""

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Adapted:
    """What a method left: weights by step, the last ones last; steps made, seconds, and whether it went wrong."""

    snapshots: dict[int, Weights]
    steps: int
    seconds: float
    idle_seconds: float
    note: str


def open_domain(config: Config, *, steps: int, seed: int) -> tuple[nn.Module, WeightsInfo, Target]:
    """The source network, what its file says, and all that a method may know of the target."""
    accelerator = accelerator_for(config, None)
    source, info = load_segmenter(config.model)
    require_batch_norm(source, f"model.arch {info.arch}")
    images = open_target(config.target)
    adapted_info = Inputs(config, accelerator, source, info, images, None).adapted_info
    target = Target(
        images=images,
        preprocess=Preprocess(info.normalization, adapted_info.exposure).to(accelerator.device),
        info=adapted_info,
        weights=str(resolve_weights(config.model.weights)),
        size=config.target.size,
        batch_size=config.target.batch_size,
        steps=steps,
        seed=seed,
        accelerator=accelerator,
        num_workers=config.run.num_workers,
    )
    if len(target.images) < target.batch_size:
        raise UserError(f"{len(target.images)} target frames are fewer than a batch of {target.batch_size}")
    return source.to(accelerator.device).eval(), info, target


def adapt(method: Method, source: nn.Module, target: Target, *, limit: float) -> Adapted:
    """Drive a method through its steps; none is begun after `limit` seconds of `idle_clock`."""
    set_seed(target.seed)
    network = copy.deepcopy(source)
    networks = enumerate(method(network, target), 1)
    quarters = {target.steps * part // SNAPSHOTS for part in range(1, SNAPSHOTS)}
    snapshots: dict[int, Weights] = {}
    device = target.accelerator.device
    step, note, since, worked = 0, "", time.perf_counter(), idle_clock(device)
    for step, network in networks:
        if step in quarters:
            snapshots[step] = weights_of(network)
        if idle_clock(device) - worked > limit and step < target.steps:
            note = f"stopped after {limit:.0f} s at step {step} of {target.steps}"
            break
    seconds, idle_seconds = time.perf_counter() - since, idle_clock(device) - worked
    last = weights_of(network)
    if not all(bool(value.isfinite().all()) for value in last.values()):
        note = "diverged: weights are not finite" + (f"; {note}" if note else "")
    return Adapted(snapshots | {step: last}, step, seconds, idle_seconds, note)


def idle_clock(device: torch.device) -> float:
    """Seconds as an idle machine would count them: on a CPU processor time over threads, on a GPU the wall clock.

    So a busy machine makes a run slower, but does not change where the limit stops it.
    """
    return time.process_time() / torch.get_num_threads() if device.type == "cpu" else time.perf_counter()


def weights_of(network: nn.Module) -> Weights:
    """A copy of parameters and statistics."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def with_source(method: SourceMethod, config: Config, info: WeightsInfo) -> Method:
    """A source-driven method that holds the labelled frames of `config.source`, to be driven as any other."""
    if config.source is None:
        raise UserError("the configuration has no section source, whose labelled frames a source-driven method needs")
    labelled = LabelledSource(open_source(config.source, class_names=info.class_names), config.source)
    return lambda network, target: method(network, target, labelled)


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
        device=device_name(),
        threads=torch.get_num_threads(),
        versions=versions(),
        commit=commit(),
        time=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def score(config: Config, source: nn.Module, info: WeightsInfo, target: Target, weights: list[Weights]) -> list[float]:
    """mIoU (percent, labels' own size) of the source network as shipped, then of each set of weights."""
    assert config.evaluate is not None
    images = open_evaluate(config.evaluate, class_names=info.class_names, size=target.size)
    subset = config.evaluate.subset

    def miou(network: nn.Module, described: WeightsInfo) -> float:
        return evaluate_images(network, described, images, target.size, target.accelerator, subset).own_size.miou

    scores = [miou(source, info)]
    network = copy.deepcopy(source)
    for state in weights:
        network.load_state_dict(state)
        scores.append(miou(network, target.info))
    return scores
