"""Labelled frames in the order in which a vehicle would see them."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from sfda_engine.config.schema import EvaluateConfig
from sfda_engine.data.datasets import open_evaluate
from sfda_engine.data.images import ImageSize

DOMAINS = ("day", "night", "rain", "fog")
Stream = list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]
"""Frames (H, W, 3) and their labels, in order."""


def read_stream(config: EvaluateConfig, class_names: tuple[str, ...], size: ImageSize) -> Stream:
    """The labelled frames of a data set; folders by sorted name."""
    images = open_evaluate(config, class_names=class_names, size=size)
    return [(np.asarray(images.image(i)), np.asarray(images.label(i))) for i in range(len(images))]


def scene_streams(count: int | None, size: ImageSize) -> dict[str, Stream]:
    """One stream a domain, and one that changes from each to the next, half as long in each."""
    streams = {
        domain: read_stream(EvaluateConfig(dataset="scenes", split=domain, frames=count), (), size)
        for domain in DOMAINS
    }
    half = len(streams["day"]) // 2
    streams["changing"] = list(itertools.chain.from_iterable(streams[domain][:half] for domain in DOMAINS))
    return streams
