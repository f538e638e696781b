"""What goes wrong on a vehicle, on purpose: frames for a soak, each with the status that it must get."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfda_runtime.errors import InputError
from sfda_runtime.results import Status
from sfda_runtime.sources import decode_image

FROZEN_AFTER = 3


@dataclass(frozen=True)
class Shot:
    """One frame of a soak and the status that is right for it."""

    kind: str
    read: Callable[[], Any]
    expected: Status


def good(frame: NDArray[np.uint8], kind: str = "good") -> Shot:
    """A frame that must be segmented."""
    return Shot(kind, lambda: frame, Status.OK)


def fault(number: int, frame: NDArray[np.uint8]) -> Sequence[Shot]:
    """Fault `number` of an endless round through all kinds, made from a good frame (H, W, 3)."""
    kind = KINDS[number % len(KINDS)]
    if kind == "frozen":
        # the first is a good frame, and repetitions are good ones up to FROZEN_AFTER
        repeated = [good(frame, kind) for _ in range(FROZEN_AFTER)]
        return [*repeated, Shot(kind, lambda: frame, Status.BAD_INPUT)]
    return [Shot(kind, lambda: DAMAGE[kind](frame), Status.BAD_INPUT)]


def _truncated_jpeg(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Half a JPEG, through the decoder of the file sources: raises InputError."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG")
    return decode_image(buffer.getvalue()[: buffer.tell() // 2], Path("truncated.jpg"))


def _no_frame(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    raise InputError("the camera gave no frame")


def _with_nan(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
    floats = frame.astype(np.float32)
    floats[0, 0, 0] = np.nan
    return floats


DAMAGE: dict[str, Callable[[NDArray[np.uint8]], Any]] = {
    "tiny": lambda frame: frame[:8, :8],
    "empty": lambda frame: frame[:0],
    "black": np.zeros_like,
    "saturated": lambda frame: np.full_like(frame, 255),
    "covered": lambda frame: np.full_like(frame, 90),
    "one channel": lambda frame: frame[..., :1],
    "no channel": lambda frame: frame[..., 0],
    "four channels": lambda frame: np.concatenate([frame, frame[..., :1]], axis=-1),
    "channels first": lambda frame: frame.transpose(2, 0, 1),
    "batch": lambda frame: frame[None],
    "16 bits": lambda frame: frame.astype(np.uint16),
    "float with NaN": _with_nan,
    "truncated JPEG": _truncated_jpeg,
    "no frame": _no_frame,
}
KINDS = (*DAMAGE, "frozen")
