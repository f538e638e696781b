"""A model that follows the light of the day: BatchNorm statistics move by forward passes, each move a transaction.

A frame may enter the state or not; it never harms it. The state that a frame proposes is kept only where it is finite
and within bounds of the exported model's, and where the labels do not look collapsed; else the labels of the last good
state are given, with the status STATE_REJECTED, at the price of another run of the network.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfda_runtime.card import IGNORE
from sfda_runtime.errors import ModelError, UsageError
from sfda_runtime.manifest import read_checked
from sfda_runtime.model import OUTPUTS, Model, open_model
from sfda_runtime.results import Maps, Result, Status
from sfda_runtime.segmenter import Segmenter, run_session
from sfda_runtime.session import SessionOptions
from sfda_runtime.state import START_FILE, Bounds, State, fault_of, load_state, read_start, save_state


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How the state moves, and what stops it."""

    normalize: float = 0.3
    """Weight of a frame's own statistics in its normalization, 0 to 1; the rest is the state's."""
    update: float = 0.05
    """Weight of a frame's own statistics in the next state, 0 to 1."""
    every: int = 1
    """Only every n-th frame moves the state."""
    bounds: Bounds = field(default_factory=Bounds)
    entropy: float = 0.7
    """Collapsed where the mean entropy of a frame's labels is above this share of ln K."""
    one_class: float = 0.98
    """Collapsed where one class has more than this share of a frame."""
    ring: int = 4
    """Number of earlier good states to fall back on, a run of the network each; the exported model's comes last."""
    ring_every: int = 25
    """Updates between two states of the ring."""

    def __post_init__(self) -> None:
        for name in ("normalize", "update", "entropy", "one_class"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        for name in ("every", "ring", "ring_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")


class AdaptiveNetwork:
    """The network of a self-adapting model as a function of frames uint8 (1, H, W, 3), with its state.

    `rejected` says after a call why the state was kept from what the frame proposed; "" where it was not. A frame that
    repeats the one before it moves nothing. `learning` False: state and normalization stay as they are.
    """

    def __init__(self, model: Model, start: State, adaptation: Adaptation) -> None:
        self.model, self.start, self.adaptation = model, start, adaptation
        self.state = start
        self.rejected = ""
        self._ring: deque[State] = deque(maxlen=adaptation.ring)
        self.learning = True
        self._frames = 0
        self._last: int | None = None

    def __call__(self, frames: NDArray[np.uint8]) -> Maps:
        settings = self.adaptation
        self.rejected = ""
        if not self.learning:
            return self.run(frames, self.state)[0]
        picture = zlib.crc32(frames.data)
        due = self._frames % settings.every == 0 and picture != self._last
        self._frames += 1
        self._last = picture
        maps, proposed = self.run(frames, self.state, settings.normalize, settings.update if due else 0.0)
        self.rejected = fault_of(proposed, self.start, settings.bounds)
        if self.rejected:
            return self.run(frames, self.state)[0]
        if self._collapsed(maps):
            return self._recover(frames)
        if due:
            self._commit(proposed)
        return maps

    def run(
        self, frames: NDArray[np.uint8], state: State, normalize: float = 0.0, update: float = 0.0
    ) -> tuple[Maps, State]:
        """One run of the graph: the maps and the state that it proposes. ModelError where onnxruntime fails."""
        feeds: dict[str, NDArray[Any]] = {
            "frames": frames,
            "bn_mean": state.mean,
            "bn_var": state.var,
            "normalize": np.array([normalize], np.float32),
            "update": np.array([update], np.float32),
        }
        labels, confidence, entropy, mean, var = run_session(self.model, OUTPUTS["adaptive"], feeds)
        return Maps(labels[0], confidence[0], entropy[0]), State(mean, var, state.updates + 1)

    def set_state(self, state: State) -> None:
        """Go on from another state, which is the newest good one."""
        self.state = state
        self._ring.clear()
        self._ring.append(state)

    def _commit(self, proposed: State) -> None:
        if not self._ring or self.state.updates - self._ring[-1].updates >= self.adaptation.ring_every:
            self._ring.append(self.state)
        self.state = proposed

    def _collapsed(self, maps: Maps) -> bool:
        assert maps.entropy is not None
        largest = np.bincount(maps.labels.ravel(), minlength=IGNORE + 1)[:IGNORE].max() / maps.labels.size
        return bool(largest > self.adaptation.one_class or maps.entropy.mean() > 255 * self.adaptation.entropy)

    def _recover(self, frames: NDArray[np.uint8]) -> Maps:
        """Labels of the newest state that does not collapse on this frame, which becomes the state.

        The present one comes first: the frame's own statistics may be at fault alone. Where even the exported model's
        state collapses, it is the frame, and the state stays.
        """
        for good in (self.state, *reversed(self._ring), self.start):
            maps, _ = self.run(frames, good)
            if not self._collapsed(maps):
                self.rejected = f"labels collapsed; rolled back by {self.state.updates - good.updates} updates"
                self.state = good
                while self._ring and self._ring[-1].updates > good.updates:
                    self._ring.pop()
                return maps
        self.rejected = "labels look collapsed in every good state: the frame is kept out of the state"
        return self.run(frames, self.state)[0]


class AdaptiveSegmenter(Segmenter):
    """A `Segmenter` of one stream whose model adapts itself on the way. Not for use by several threads at once."""

    def __init__(self, model: Model, start: State, *, adaptation: Adaptation | None = None, **settings: Any) -> None:
        """start: the state of the exported model; `settings` are those of `Segmenter`."""
        self.network = AdaptiveNetwork(model, start, adaptation or Adaptation())
        super().__init__(model, network=self.network, **settings)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        providers: Sequence[str] = ("cpu",),
        threads: int = 1,
        sha256: str | None = None,
        session: SessionOptions | None = None,
        adaptation: Adaptation | None = None,
        **settings: Any,
    ) -> AdaptiveSegmenter:
        """Open the self-adapting model of a bundle folder, at the state of the exported model.

        Options and errors are those of `Segmenter.load`; UsageError where the bundle has no such model.
        """
        options = session or SessionOptions(providers=tuple(providers), threads=threads)
        model = open_model(path, "adaptive", options, sha256)
        if model.manifest is None:
            raise UsageError(f"{path} lies in no bundle: a self-adapting model needs the {START_FILE} of its export")
        start = read_start(read_checked(model.manifest, START_FILE), START_FILE)
        check_channels(model, start)
        segmenter = cls(model, start, adaptation=adaptation, **settings)
        if model.session.get_providers()[0] != "CPUExecutionProvider":
            segmenter.warm_up(3)
        return segmenter

    @property
    def state(self) -> State:
        """The state that the next frame meets."""
        return self.network.state

    def step(self, frame: NDArray[np.uint8], frame_id: str | None = None) -> Result:
        """Segment one frame, as `Segmenter` does, and let it move the state.

        STATE_REJECTED: the frame was kept out of the state, the labels are of this frame by the last good state.
        """
        result = super().__call__(frame, frame_id)
        if result.status not in (Status.OK, Status.DEADLINE_MISS) or not self.network.rejected:
            return result
        reason = "; ".join(filter(None, (self.network.rejected, result.reason)))
        return replace(result, status=Status.STATE_REJECTED, fault=result.fault or Status.STATE_REJECTED, reason=reason)

    __call__ = step

    def warm_up(self, frames: int) -> list[float]:
        """As `Segmenter.warm_up`; the state stays as it is."""
        self.network.learning = False
        try:
            return super().warm_up(frames)
        finally:
            self.network.learning = True

    def save_state(self, path: str | Path) -> None:
        """Write the state for the next drive. UsageError where the file cannot be written."""
        save_state(Path(path), self.state, self.model.sha256)

    def load_state(self, path: str | Path) -> None:
        """Go on from a saved state. Raises UsageError, ModelError, IntegrityError as `state.load_state`."""
        network = self.network
        network.set_state(load_state(Path(path), network.start, self.model.sha256, network.adaptation.bounds))


def check_channels(model: Model, start: State) -> None:
    """ModelError where the graph's statistics are not as many as those of `start`."""
    channels = next(node.shape for node in model.session.get_inputs() if node.name == "bn_mean")
    if channels != list(start.mean.shape):
        raise ModelError(f"{model.path} has {channels} channels, its {START_FILE} {list(start.mean.shape)}")
