"""What the vehicle gets for a frame: label maps and a status."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.uint8]


class Status(str, Enum):
    """What became of a frame."""

    OK = "ok"
    BAD_INPUT = "bad_input"
    STALE = "stale"
    DEADLINE_MISS = "deadline_miss"
    MODEL_ERROR = "model_error"
    STATE_REJECTED = "state_rejected"


class Maps(NamedTuple):
    """What a network gives for one frame, each uint8 (H, W) at the network's size; confidence and entropy 0..255."""

    labels: Map
    confidence: Map | None = None
    entropy: Map | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """The answer to one frame, labels of that frame where status is OK, DEADLINE_MISS or STATE_REJECTED. Read-only."""

    labels: Map
    """(H, W) class indices; 255 = no class. Never a class that the network did not give."""
    confidence: Map | None = None
    """(H, W) round(255 * largest probability), at the size of the labels; None without diagnostics."""
    entropy: Map | None = None
    """(H, W) round(255 * entropy / ln K), at the size of the labels; None without diagnostics."""
    status: Status
    """STALE: labels of an earlier frame, `age` frames old. BAD_INPUT, MODEL_ERROR: no labels, 255 everywhere.
    STATE_REJECTED: a self-adapting model learned nothing from this frame; labels by its last good state."""
    frame_id: str
    latency_ms: float
    """From the frame in memory to its labels."""
    split_ms: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """The same by part: checks and resizing, network, labels to their size."""
    age: int = 0
    """Frames since the one that the labels belong to."""
    fault: Status | None = None
    """What went wrong with this frame, also where `status` is STALE; None where nothing did."""
    reason: str = ""
    """The fault in words."""
