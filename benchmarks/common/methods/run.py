"""Drive a method, then open the labels and score what it left. The only reader of target labels among the methods."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

from benchmarks.common.methods.source_driven.source import LabelledSource, SourceMethod
from benchmarks.common.methods.target import Method, Target
from sfda_engine.config.loader import resolve_weights
from sfda_engine.config.schema import Config
from sfda_engine.data.datasets import open_evaluate, open_source, open_target
from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.evaluation.scoring import evaluate_images
from sfda_engine.models.norms import require_batch_norm
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.weights import WeightsInfo
from sfda_engine.pipelines.inputs import accelerator_for, inputs_of
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
    assert config.target.size is not None  # every domain states it
    adapted_info = inputs_of(config, accelerator, source.eval(), info, images, None).adapted_info
    target = Target(
        images=images,
        preprocess=Preprocess(info.normalization, adapted_info.exposure).to(accelerator.device),
        info=adapted_info,
        weights=str(resolve_weights(config.model.weights)),
        size=ImageSize(*config.target.size),
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
