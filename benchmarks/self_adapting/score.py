"""One exported model over one stream: what its labels are worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.self_adapting.streams import Stream
from sfda_engine.evaluation.scores import scores_of
from sfda_export.parity import confusion_of
from sfda_runtime import Adaptation, AdaptiveSegmenter, Segmenter, Status
from sfda_runtime.segmenter import resize


@dataclass(frozen=True, kw_only=True)
class Score:
    """One model over one stream; mIoU in percent at the labels' own size, labels of the runtime by nearest."""

    stream: str
    frames: int
    model: str
    normalize: float | None = None
    """None, as `update`: the plain model."""
    update: float | None = None
    miou: float
    miou_second_half: float
    """Of the stream's second half alone: what it comes to, without the way there."""
    rejected: int
    """Frames that were kept out of the state."""


def drive(segmenter: Segmenter, stream: Stream) -> tuple[list[Tensor], int]:
    """Confusion counts (K, K) of every frame, in order, and the number of rejected frames."""
    counts, rejected = [], 0
    for frame, truth in stream:
        result = segmenter(frame)
        rejected += result.status is Status.STATE_REJECTED
        labels = resize(result.labels, (truth.shape[1], truth.shape[0]), "nearest")
        counts.append(confusion_of(labels, truth, len(segmenter.card.classes)))
    return counts, rejected


def score(bundle: Path, name: str, stream: str, frames: Stream, settings: tuple[float, float] | None) -> Score:
    """Drive one exported model; settings (normalize, update), None for the plain model."""
    if settings is None:
        segmenter = Segmenter.load(bundle, label_size="network")
    else:
        adaptation = Adaptation(normalize=settings[0], update=settings[1])
        segmenter = AdaptiveSegmenter.load(bundle, adaptation=adaptation, label_size="network")
    counts, rejected = drive(segmenter, frames)
    whole, half = (torch.stack(part).sum(0) for part in (counts, counts[len(counts) // 2 :]))
    return Score(
        stream=stream,
        frames=len(frames),
        model=name,
        normalize=settings and settings[0],
        update=settings and settings[1],
        miou=scores_of(whole, segmenter.card.classes).miou,
        miou_second_half=scores_of(half, segmenter.card.classes).miou,
        rejected=rejected,
    )


def score_settings(
    bundle: Path, streams: dict[str, Stream], settings: Sequence[tuple[float, float]]
) -> Iterator[Score]:
    """The demo model over every stream, plain and at every setting."""
    for choice in (None, *settings):
        for name, frames in streams.items():
            yield score(bundle, "demo_source", name, frames, choice)


def score_models(bundles: dict[str, Path], stream: str, frames: Stream) -> Iterator[Score]:
    """Every model over one stream, plain and self-adapting at the defaults."""
    chosen = Adaptation()
    for name, bundle in bundles.items():
        for settings in (None, (chosen.normalize, chosen.update)):
            yield score(bundle, name, stream, frames, settings)
