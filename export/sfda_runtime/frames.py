"""What a frame must be before it reaches the network: checks that cost a millisecond at 1920x1080 (measured)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfda_runtime.errors import InputError

SAMPLE_ROWS = 64
BLACK, WHITE = 4, 251


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Frames beyond these limits are refused."""

    minimum: tuple[int, int] = (32, 32)
    """Smallest (width, height) in pixels; a model's card may ask for more."""
    maximum: tuple[int, int] = (8192, 8192)
    """Largest (width, height) in pixels."""
    flat_share: float = 0.99
    """Refused where more than this share of the values is black (<= 4) or saturated (>= 251)."""
    deviation: float = 1.0
    """Refused where the standard deviation of the values (0..255) is below this: a covered lens, a gray card."""
    frozen_after: int = 30
    """Refused from the n-th frame in a row on that repeats the one before it; 0 never refuses."""


class FrameGuard:
    """Checks frames of one stream: each by itself, and whether the picture still changes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._last: int | None = None
        self._repeats = 0

    def check(self, frame: object) -> NDArray[np.uint8]:
        """The frame, uint8 (H, W, 3). InputError with the reason where it must not reach the network."""
        array = check_layout(frame, self.limits)
        rows = np.ascontiguousarray(array[:: max(1, array.shape[0] // SAMPLE_ROWS)])
        check_exposure(rows, self.limits)
        self._check_frozen(rows)
        return array

    def _check_frozen(self, rows: NDArray[np.uint8]) -> None:
        picture = zlib.crc32(rows.data)
        self._repeats = self._repeats + 1 if picture == self._last else 0
        self._last = picture
        if 0 < self.limits.frozen_after <= self._repeats:
            raise InputError(f"the picture is frozen: {self._repeats} frames in a row repeat the one before")


def check_layout(frame: object, limits: Limits) -> NDArray[np.uint8]:
    """The frame as it came, where it is uint8 (H, W, 3) within the limits of size; else InputError."""
    if not isinstance(frame, np.ndarray):
        raise InputError(f"a frame must be a numpy array, not {type(frame).__name__}")
    if frame.dtype != np.uint8:
        raise InputError(f"a frame must be uint8 RGB of 0..255, not {frame.dtype}; convert it")
    if frame.ndim != 3:
        raise InputError(f"a frame must be one picture (H, W, 3), not an array of shape {frame.shape}")
    if frame.shape[2] != 3:
        advice = "transpose it to (H, W, 3)" if frame.shape[0] == 3 else "convert it to RGB"
        raise InputError(f"a frame must be RGB (H, W, 3), not of shape {frame.shape}; {advice}")
    height, width = frame.shape[:2]
    if width < limits.minimum[0] or height < limits.minimum[1]:
        raise InputError(f"a frame of {width}x{height} is too small: {limits.minimum[0]}x{limits.minimum[1]} at least")
    if width > limits.maximum[0] or height > limits.maximum[1]:
        raise InputError(f"a frame of {width}x{height} is too large: {limits.maximum[0]}x{limits.maximum[1]} at most")
    return frame


def check_exposure(values: NDArray[np.uint8], limits: Limits) -> None:
    """InputError where the values (0..255, any shape) are black, saturated or all alike."""
    for name, share in (("black", np.mean(values <= BLACK)), ("saturated", np.mean(values >= WHITE))):
        if share > limits.flat_share:
            raise InputError(f"the frame is {name}: {100 * share:.1f} % of its values")
    if (deviation := float(values.std())) < limits.deviation:
        raise InputError(f"the frame shows nothing: its values deviate by {deviation:.2f} of 255")
