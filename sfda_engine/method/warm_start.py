"""BatchNorm statistics of the student: estimated on target frames, mixed with the source's by a share chosen without
labels. Done before the first step, where it is the baseline that adaptation has to beat, and after the last.
"""

from __future__ import annotations

import torch
from torch import nn

from sfda_engine.data.images import ImageSize
from sfda_engine.data.loaders import TargetFrames, draw_loader
from sfda_engine.data.readers import Images
from sfda_engine.models.norms import mix_statistics, reestimate_statistics
from sfda_engine.models.preprocess import Preprocess

PASSES = 2


def estimate_on_target(
    student: nn.Module,
    source: nn.Module,
    preprocess: Preprocess,
    target: Images,
    *,
    size: ImageSize,
    batch_size: int,
    seed: int,
    device: torch.device,
    share: float = 0.0,
) -> None:
    """Replace the BN statistics of `student` by those of PASSES passes over the target frames, mixed with `source`'s.

    `share` is 0..1 of `source`. All processes do the same on the same frames.
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
    mix_statistics(student, source, share)
