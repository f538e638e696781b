"""One frame in, one label map out, whatever happens: the vehicle's inference."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sfda_runtime.card import IGNORE, Card, Graph
from sfda_runtime.errors import InputError, ModelError, RuntimeFault, UsageError
from sfda_runtime.frames import FrameGuard, Limits
from sfda_runtime.model import OUTPUTS, Model, open_model
from sfda_runtime.results import Map, Maps, Result, Status
from sfda_runtime.session import SessionOptions, first_line

OnError = Literal["ignore", "hold", "raise"]
LabelSize = Literal["frame", "network"] | tuple[int, int]
Network = Callable[[NDArray[np.uint8]], Maps]


class Segmenter:
    """Segments the frames of one stream in their order. Not for use by several threads at once."""

    def __init__(
        self,
        model: Model,
        *,
        network: Network | None = None,
        deadline_ms: float | None = None,
        on_error: OnError = "ignore",
        max_age_frames: int = 5,
        label_size: LabelSize = "frame",
        limits: Limits | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Settings of one stream.

        deadline_ms: a slower frame keeps its labels, with the status DEADLINE_MISS.
        on_error: what a frame or model that fails gives: "ignore" 255 everywhere, "hold" the last good labels for up
        to `max_age_frames` frames, "raise" InputError or ModelError.
        label_size: the frame's own, the network's, or (width, height).
        network: replaces the plain run of the model, for a graph that takes more than frames.
        """
        if on_error not in get_args(OnError):
            raise UsageError(f"on_error is {' | '.join(get_args(OnError))}, not {on_error!r}")
        self.model = model
        self.card: Card = model.card
        self.deadline_ms = deadline_ms
        self.on_error = on_error
        self.max_age_frames = max_age_frames
        self.label_size = label_size
        limits = limits or Limits()
        (width, height), (least_width, least_height) = limits.minimum, model.card.minimum
        self._guard = FrameGuard(replace(limits, minimum=(max(width, least_width), max(height, least_height))))
        self._network = network or run_network(model)
        self._clock = clock
        self._count = itertools.count()
        self._last_good: Result | None = None
        self._age = 0

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        providers: Sequence[str] = ("cpu",),
        threads: int = 1,
        diagnostics: bool = False,
        sha256: str | None = None,
        session: SessionOptions | None = None,
        warm_up: int | None = None,
        deadline_ms: float | None = None,
        on_error: OnError = "ignore",
        max_age_frames: int = 5,
        label_size: LabelSize = "frame",
        limits: Limits | None = None,
    ) -> Segmenter:
        """Open a bundle folder or a lone .onnx file and check that it is what was asked for.

        `diagnostics` takes the bundle's graph with confidence and entropy. `sha256` demands one model file.
        `session` states all options of onnxruntime and replaces `providers` and `threads`. `warm_up` runs that many
        frames of noise first (None: 3 on a GPU, none on the CPU). The other settings are the constructor's.
        Raises UsageError, ModelError, IntegrityError, ProviderError.
        """
        options = session or SessionOptions(providers=tuple(providers), threads=threads)
        graph: Graph | None = "diagnostics" if diagnostics else ("labels" if Path(path).is_dir() else None)
        model = open_model(path, graph, options, sha256)
        if model.card.graph == "adaptive":
            raise UsageError(f"{model.path} carries its state from frame to frame; load it as AdaptiveSegmenter")
        segmenter = cls(
            model,
            deadline_ms=deadline_ms,
            on_error=on_error,
            max_age_frames=max_age_frames,
            label_size=label_size,
            limits=limits,
        )
        on_cpu = model.session.get_providers()[0] == "CPUExecutionProvider"
        segmenter.warm_up((0 if on_cpu else 3) if warm_up is None else warm_up)
        return segmenter

    def warm_up(self, frames: int) -> list[float]:
        """Milliseconds of each of so many runs of the network alone, on noise; no state of the stream changes."""
        width, height = self.card.size
        noise = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        times = []
        for _ in range(frames):
            start = time.perf_counter()
            self._network(noise)
            times.append(1e3 * (time.perf_counter() - start))
        return times

    def __call__(self, frame: NDArray[np.uint8], frame_id: str | None = None) -> Result:
        """Segment one RGB frame, uint8 (H, W, 3) of any size within the limits.

        A frame or model that fails gives a status and never an exception, unless on_error is "raise".
        """
        start = self._clock()
        name = self._name(frame_id)
        try:
            picture = self._guard.check(frame)
            batch = np.ascontiguousarray(resize(picture, self.card.size, "bilinear"))[None]
            ready = self._clock()
            maps = self._network(batch)
            check_maps(maps, self.card)
            answered = self._clock()
            size = self._size_for(picture)
            labels = _finished(maps.labels, size)
            confidence, entropy = (None if m is None else _finished(m, size) for m in maps[1:])
        except RuntimeFault as error:
            return self._fail(error, name, frame, 1e3 * (self._clock() - start))
        done = self._clock()
        latency = 1e3 * (done - start)
        late = self.deadline_ms is not None and latency > self.deadline_ms
        result = Result(
            labels=labels,
            confidence=confidence,
            entropy=entropy,
            status=Status.DEADLINE_MISS if late else Status.OK,
            frame_id=name,
            latency_ms=latency,
            split_ms=(1e3 * (ready - start), 1e3 * (answered - ready), 1e3 * (done - answered)),
            fault=Status.DEADLINE_MISS if late else None,
            reason=f"{latency:.1f} ms, {self.deadline_ms:.1f} ms allowed" if late else "",
        )
        self._last_good, self._age = result, 0
        return result

    def reject(self, reason: str, frame_id: str | None = None) -> Result:
        """The answer to a frame that could not even be read (a damaged file, a camera's timeout)."""
        return self._fail(InputError(reason), self._name(frame_id), None, 0.0)

    def _name(self, frame_id: str | None) -> str:
        number = next(self._count)
        return f"{number:06d}" if frame_id is None else frame_id

    def _size_for(self, frame: NDArray[np.uint8]) -> tuple[int, int]:
        if self.label_size == "frame":
            return frame.shape[1], frame.shape[0]
        return self.card.size if self.label_size == "network" else self.label_size

    def _fail(self, error: RuntimeFault, name: str, frame: Any, latency_ms: float) -> Result:
        if self.on_error == "raise":
            raise error
        fault = Status.BAD_INPUT if isinstance(error, InputError) else Status.MODEL_ERROR
        self._age += 1
        if self.on_error == "hold" and self._last_good is not None and self._age <= self.max_age_frames:
            return replace(
                self._last_good,
                status=Status.STALE,
                frame_id=name,
                latency_ms=latency_ms,
                split_ms=(0.0, 0.0, 0.0),
                age=self._age,
                fault=fault,
                reason=str(error),
            )
        width, height = self._size_of_unknown(frame)
        known = "confidence" in OUTPUTS[self.card.graph]
        return Result(
            labels=_constant(IGNORE, width, height),
            confidence=_constant(0, width, height) if known else None,
            entropy=_constant(255, width, height) if known else None,
            status=fault,
            frame_id=name,
            latency_ms=latency_ms,
            fault=fault,
            reason=str(error),
        )

    def _size_of_unknown(self, frame: Any) -> tuple[int, int]:
        """Size of the empty map: what the labels would have had, where the frame is a picture at all."""
        picture = isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] <= 4 and frame.size
        if picture and max(frame.shape) <= max(self._guard.limits.maximum):
            return self._size_for(frame)
        return self.card.size if isinstance(self.label_size, str) else self.label_size


def _finished(values: Map, size: tuple[int, int]) -> Map:
    """One map at the size asked, read-only: it may be given out again under "hold"."""
    values = resize(values, size, "nearest")
    values.flags.writeable = False
    return values


def _constant(value: int, width: int, height: int) -> Map:
    values = np.full((height, width), value, np.uint8)
    values.flags.writeable = False
    return values


def run_network(model: Model) -> Network:
    """The model's session as a function of frames uint8 (1, H, W, 3). ModelError where onnxruntime fails."""
    names = [name for name in OUTPUTS[model.card.graph] if name in Maps._fields]

    def run(frames: NDArray[np.uint8]) -> Maps:
        return Maps(*(output[0] for output in run_session(model, names, {"frames": frames})))

    return run


def run_session(model: Model, outputs: Sequence[str], feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """`session.run` with onnxruntime's many exceptions as ModelError."""
    try:
        return list(model.session.run(list(outputs), feeds))
    except Exception as error:  # onnxruntime's own classes have no common base
        raise ModelError(f"{model.path}: onnxruntime failed: {first_line(error)}") from error


def check_maps(maps: Maps, card: Card) -> None:
    """ModelError where the labels are no classes. The graph itself gives 255 for logits that are not finite."""
    highest = int(maps.labels.max())
    if highest == IGNORE:
        raise ModelError("the network's output is not finite")
    if highest >= len(card.classes):
        raise ModelError(f"the network gave label {highest}, it has {len(card.classes)} classes")


def resize(picture: NDArray[np.uint8], size: tuple[int, int], by: Literal["bilinear", "nearest"]) -> NDArray[np.uint8]:
    """A picture uint8 (H, W) or (H, W, 3) at (width, height), by Pillow's filter; itself where it has that size."""
    if picture.shape[1::-1] == size:
        return picture
    from PIL import Image

    filters = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}
    return np.asarray(Image.fromarray(picture).resize(size, filters[by]))
