"""Four frames of 32x32 at night, four labelled ones by day, and the shipped source network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from benchmarks.common.methods.run import open_domain
from benchmarks.common.methods.source_driven.source import LabelledSource
from benchmarks.common.methods.target import Target
from sfda_engine.config.loader import load_config
from sfda_engine.config.schema import Config
from sfda_engine.data.classes import class_set
from sfda_engine.data.datasets import open_source


@pytest.fixture(autouse=True)
def _accelerate_as_it_was() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def tiny_config() -> Config:
    size, frames = ["--target.size", "[32, 32]", "--target.batch_size", "2"], ["--target.frames", "4"]
    source = [
        "--source.dataset",
        "scenes",
        "--source.split",
        "day",
        "--source.size",
        "[32, 32]",
        "--source.frames",
        "4",
    ]
    return load_config("demo", [*size, *frames, *source, "--evaluate.frames", "3", "--model.exposure", "gamma"])


@pytest.fixture
def tiny() -> Config:
    return tiny_config()


@pytest.fixture
def opened() -> Callable[..., tuple[nn.Module, Target]]:
    """opened(steps=2) -> the source network and what a method may know."""

    def build(steps: int = 2, seed: int = 0) -> tuple[nn.Module, Target]:
        source, _, target = open_domain(tiny_config(), steps=steps, seed=seed)
        return source, target

    return build


@pytest.fixture
def labelled() -> LabelledSource:
    """What a source-driven method is given beside them."""
    config = tiny_config()
    assert config.source is not None
    return LabelledSource(open_source(config.source, class_names=class_set("scenes").names), config.source)
