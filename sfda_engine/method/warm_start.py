"""BatchNorm statistics of the student: estimated on target frames, mixed with the source's by a share chosen without
labels. Done before the first step, where it is the baseline that adaptation has to beat, and after the last.
"""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn

from sfda_engine.data.loaders import TargetFrames, draw_loader
from sfda_engine.data.readers import Images
from sfda_engine.distributed.collectives import decided_by_main
from sfda_engine.judge.scores import sample_frames, score
from sfda_engine.models.norms import mix_statistics, reestimate_statistics
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.segmenter import Size

PASSES = 2
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def estimate_on_target(
    student: nn.Module,
    source: nn.Module,
    preprocess: Preprocess,
    target: Images,
    *,
    size: Size,
    batch_size: int,
    seed: int,
    device: torch.device,
    share: float | None,
) -> float:
    """Replace the BN statistics of `student` by those of PASSES passes over the target frames, mixed with `source`'s.

    Returns `share` (0..1) of `source`, the chosen one where that is None. All processes do the same on the same frames.
    Both networks end on `device`, `student` in eval mode.
    """
    loader = draw_loader(
        TargetFrames(target, size=size, flip=False, seed=seed),
        len(target),
        batch_size=batch_size,
        seed=seed,
        start=0,
        stop=max(1, PASSES * len(target) // batch_size),
    )
    student.to(device).eval()
    source.to(device)
    reestimate_statistics(student, (preprocess(item["image"].to(device)) for item in loader))
    if share is None:
        chosen = choose_share(student, source, preprocess, target, size)  # by all: scores gather statistics
        share = decided_by_main(lambda: chosen)
    mix_statistics(student, source, share)
    return share


def choose_share(
    student: nn.Module, source: nn.Module, preprocess: Preprocess, target: Images, size: tuple[int, int]
) -> float:
    """Share of the source's BN statistics (0 to 0.5): raised from 0 as long as augmented views tell that it helps.

    They do where the marginal entropy over the views falls (Zhang, Levine, Finn, MEMO, 2022, there a loss) and labels
    at other sizes overlap more, class by class. Entropy alone has a second, deeper minimum at large shares, where
    predictions have collapsed, and goes too far on CamVid dusk (docs/findings.md). `student` has the target's
    statistics and stays as it is.
    """
    frames = sample_frames(target)

    def scores(share: float) -> dict[str, float]:
        mixed = copy.deepcopy(student)
        mix_statistics(mixed, source, share)
        return score(mixed, preprocess, frames, size)

    best = scores(SHARES[0])
    for share, following in itertools.pairwise(SHARES):
        found = scores(following)
        if found["marginal_entropy"] >= best["marginal_entropy"] or found["iou_scale"] <= best["iou_scale"]:
            return share
        best = found
    return SHARES[-1]
