"""How long one frame takes, as the model and as its files, on this CPU: for the parity card, not a benchmark."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sfda_export.parity import PROVIDER, open_session
from sfda_export.reference import Frames

ROUNDS = 30
Runner = Callable[[Frames], NDArray[np.uint8]]
"""Frames uint8 (N, H, W, 3) RGB -> labels (N, H, W)."""


def eager(graph: nn.Module) -> Runner:
    """The module that was exported, in PyTorch."""

    @torch.inference_mode()
    def run(frames: Frames) -> NDArray[np.uint8]:
        return graph(torch.from_numpy(frames))[0].numpy()

    return run


def onnx_file(path: Path) -> Runner:
    """An exported file. It is read here: what later becomes of the file does not matter."""
    session = open_session(path, threads=1)
    return lambda frames: session.run(["labels"], {"frames": frames})[0]


def latency_card(runners: Mapping[str, Runner], frames: Frames) -> dict[str, Any]:
    """Median milliseconds of each runner on `frames`, called in turns, and its ratio to the first one's.

    One thread, the runtime's default: on a busy machine several wait for each other, each library in its own way.
    """
    times: dict[str, list[float]] = {name: [] for name in runners}
    with torch_threads(1):
        for turn in range(ROUNDS + 1):
            for name, run in runners.items():
                since = time.perf_counter()
                run(frames)
                if turn:  # the first one warms up
                    times[name].append(1e3 * (time.perf_counter() - since))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    first = next(iter(medians.values()))
    return {
        "ms": {name: round(median, 3) for name, median in medians.items()},
        "ratio": {name: round(median / first, 3) for name, median in medians.items()},
        "shape": list(frames.shape),
        "threads": 1,
        "provider": PROVIDER,
    }


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Run PyTorch on so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
