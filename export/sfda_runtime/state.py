"""The state of a self-adapting model: BatchNorm statistics, the bounds that they must keep, their file."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfda_runtime.errors import IntegrityError, ModelError, UsageError

START_FILE = "bn_state.npz"
EPSILON = 1e-5
"""What BatchNorm adds to a variance: below it a channel is dead, and how far it moves does not matter."""
Vector = NDArray[np.float32]


@dataclass(frozen=True)
class State:
    """Statistics of all adapting BatchNorm layers, concatenated, float32 (C,) each."""

    mean: Vector
    var: Vector
    updates: int = 0
    """Frames that have moved it since the exported model."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How far a state may be from that of the exported model; one that would go further stays where it is."""

    var_ratio: float = 16.0
    """Each variance stays within 1/16 to 16 times its first value."""
    drift: float = 3.0
    """Each mean stays within so many standard deviations of its first value."""


def fault_of(state: State, start: State, bounds: Bounds) -> str:
    """What is wrong with a state in words, naming the first channel; "" where it is finite and within bounds."""
    if not (np.isfinite(state.mean).all() and np.isfinite(state.var).all()):
        return "the state is not finite"
    ratio = (state.var + EPSILON) / (start.var + EPSILON)
    outside = (ratio < 1 / bounds.var_ratio) | (ratio > bounds.var_ratio)
    if outside.any():
        channel = int(outside.argmax())
        return f"variance of channel {channel} is {ratio[channel]:.3g} times that of the exported model"
    drift = np.abs(state.mean - start.mean) / np.sqrt(start.var + EPSILON)
    if drift.max() > bounds.drift:
        channel = int(drift.argmax())
        return f"mean of channel {channel} is {drift[channel]:.2f} standard deviations from that of the exported model"
    return ""


def read_start(content: bytes, origin: str) -> State:
    """The state of the exported model from the content of bn_state.npz. ModelError where it is none."""
    return _state(_arrays(content, origin), origin)


def save_state(path: Path, state: State, model_sha256: str) -> None:
    """Write a state and the hash of its model as npz, whole or not at all. UsageError where that cannot be done."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(
                file,
                mean=state.mean,
                var=state.var,
                updates=np.int64(state.updates),
                model_sha256=np.str_(model_sha256),
            )
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"the state cannot be written to {path} ({error.strerror}); name another file") from error
    finally:
        partial.unlink(missing_ok=True)


def load_state(path: Path, start: State, model_sha256: str, bounds: Bounds) -> State:
    """The state that `save_state` wrote for this very model.

    UsageError: no such file. ModelError: damaged, of another size. IntegrityError: of another model, or out of bounds.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the state {path} cannot be read ({error.strerror})") from error
    arrays = _arrays(content, str(path))
    state = _state(arrays, str(path))
    advice = "remove the file to start from the exported model"
    owner = str(arrays.get("model_sha256", "unknown"))
    if owner != model_sha256:
        raise IntegrityError(
            f"the state {path} belongs to another model (sha256 {owner[:16]}..., not {model_sha256[:16]}...); {advice}"
        )
    if state.mean.shape != start.mean.shape:
        raise ModelError(f"the state {path} has {state.mean.size} channels, the model {start.mean.size}; {advice}")
    if fault := fault_of(state, start, bounds):
        raise IntegrityError(f"the state {path} is refused: {fault}; {advice}")
    return state


def _arrays(content: bytes, origin: str) -> Mapping[str, Any]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return dict(file)
    except Exception as error:  # zipfile, zlib and numpy (a header is Python source) fail in many ways
        raise ModelError(
            f"{origin} is damaged or no state of a model ({str(error)[:200]}); remove or copy it again"
        ) from error


def _state(arrays: Mapping[str, Any], origin: str) -> State:
    # an array of no dimensions stands for one that is missing
    mean, var = (arrays.get(name, np.float32(0)) for name in ("mean", "var"))
    if not all(
        values.dtype == np.float32 and values.shape == mean.shape and values.ndim == 1 for values in (mean, var)
    ):
        raise ModelError(f"{origin} holds no mean and var, float32 (C,) each; remove or copy it again")
    updates = arrays.get("updates", np.int64(0))
    if updates.shape != () or updates.dtype.kind != "i" or updates < 0:
        raise ModelError(f"{origin} does not say how many frames it has seen; remove or copy it again")
    return State(mean, var, int(updates))
