"""What a frame costs: the labels, the diagnostics and the self-adapting graph of one bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.measure import Timed, time_in_turns
from benchmarks.common.row import Row, stamp
from sfda_runtime import Adaptation, AdaptiveSegmenter, Bounds
from sfda_runtime.adaptive import AdaptiveNetwork
from sfda_runtime.card import Graph
from sfda_runtime.model import open_model
from sfda_runtime.segmenter import Network, run_network
from sfda_runtime.session import SessionOptions

GRAPHS: tuple[Graph, ...] = ("labels", "diagnostics", "adaptive")


def time_graphs(bundle: Path, sizes: Iterable[tuple[int, int]], seconds: float) -> list[Row]:
    """One frame through the labels, the diagnostics and the self-adapting graph, in turns; one thread."""
    options = SessionOptions(threads=1)
    models = {name: open_model(bundle, name, options) for name in GRAPHS}
    start = AdaptiveSegmenter.load(bundle).state
    # noise is no street: a frame that is rejected would run twice
    always = Adaptation(bounds=Bounds(var_ratio=np.inf, drift=np.inf), entropy=1.0, one_class=1.0)
    networks: dict[Graph, Network] = {
        name: AdaptiveNetwork(model, start, always) if name == "adaptive" else run_network(model)
        for name, model in models.items()
    }
    rows = []
    for width, height in sizes:
        draw = partial(np.random.default_rng(0).integers, 0, 256, (1, height, width, 3), dtype=np.uint8)
        timed = {str(name): Timed(network, draw) for name, network in networks.items()}
        for name, (p20, p50, p80) in time_in_turns(timed, torch.device("cpu"), seconds=seconds, warmup=3).items():
            row = Row(
                op=models["labels"].card.arch, provider=name, direction="forward", shape=f"1x{width}x{height}",
                dtype="fp32", p20_ms=p20, p50_ms=p50, p80_ms=p80,
            )  # fmt: skip
            rows.append(dataclasses.replace(stamp(row), threads=options.threads))
    return rows
