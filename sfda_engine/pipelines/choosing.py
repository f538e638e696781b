"""Which view of the source a run starts from: at what exposure, size and share of BN statistics, chosen without labels
among those that the configuration leaves open."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageStat

from sfda_engine.config.schema import Config
from sfda_engine.data.frame_sample import spread
from sfda_engine.data.images import stated
from sfda_engine.data.readers import Images
from sfda_engine.distributed.collectives import decided_by_main
from sfda_engine.judge.aside import Split, set_aside
from sfda_engine.judge.choice import Choice, choose
from sfda_engine.models.preprocess import Exposure
from sfda_engine.pipelines.inputs import Inputs
from sfda_engine.training.progress import phase_progress
from sfda_engine.views.candidates import SHARES, candidates
from sfda_engine.views.probabilities import Predictions, predict
from sfda_engine.views.view import View

CHOICE_FRAMES = 16
"""Frames spread over the training frames that views are compared on, beside those that models are judged on: these
alone are of a few stretches, and the views of a stretch at night are not those of the drive."""
DARK = 0.27
"""Mean luminance (0..1) of frames from which an exposure correction is preferred. Students that are shown it end higher
than others though their starts are level, which no comparison of starts sees. By day frames have 0.3 to 0.45, at dusk
0.23."""
STATISTICS_FRAMES, CHOICE_STATISTICS_FRAMES = 64, 16
"""Of the start, and of each of the views that it is chosen from."""


@dataclass(frozen=True)
class Chosen:
    """The start, why, and what every view says of the frames that models are judged on."""

    choice: Choice
    witnesses: Predictions


def choose_view(inputs: Inputs) -> Chosen:
    """Look at the target through every view and choose. All processes look; the main one decides."""
    config, info = inputs.config, inputs.info
    views = candidates(inputs.source, inputs.sizes, info.exposure, shares_of(config))
    split = set_aside(len(inputs.target))
    frames = [inputs.target.image(index) for index in shown(split)]
    title = f"looking at the target through {len(views)} views of the source"
    with phase_progress(title, enabled=inputs.accelerator.is_main_process) as advance:
        sample = frames_for_statistics(inputs.target, CHOICE_STATISTICS_FRAMES)
        predictions = predict(inputs.source, info.normalization, views, info.num_classes, frames, sample, advance)
    preferred: Exposure | None = "gamma" if luminance(sample) < DARK else None
    choice = decided_by_main(
        lambda: choose(
            predictions, info.exposure, stated(config.target.size), lambda view: suits(view, config), preferred
        )
    )
    return Chosen(choice, predictions.first(len(split.judged)))


def shown(split: Split) -> list[int]:
    """Indices of the frames that views are compared on: the judged ones first, then CHOICE_FRAMES that train."""
    more = spread(len(split.training), CHOICE_FRAMES)
    return list(dict.fromkeys([*split.judged, *(split.training[place] for place in more)]))


def frames_for_statistics(target: Images, count: int = STATISTICS_FRAMES) -> list[Image.Image]:
    """`count` frames that BN statistics are estimated on, spread over all."""
    return [target.image(index) for index in spread(len(target), count)]


def luminance(frames: Sequence[Image.Image]) -> float:
    """Median over frames of their mean luminance, 0..1 (Rec. 601)."""
    return statistics.median(ImageStat.Stat(frame.convert("L")).mean[0] / 255 for frame in frames)


def shares_of(config: Config) -> tuple[float, ...]:
    """Shares of the source's BN statistics to look at: the usual ones and a stated one."""
    stated = config.method.bn_share
    return tuple(sorted({*SHARES, *([] if stated is None else [stated])}))


def suits(view: View, config: Config) -> bool:
    """Whether a view has the exposure and the share that the configuration states, if it does."""
    exposure, share = config.model.exposure, config.method.bn_share
    return (exposure == "auto" or view.exposure == exposure) and (share is None or view.share == share)
