"""Pseudo-labels of the target frames by the teacher: each process labels its share, all get all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from sfda_engine.data.folder import IGNORE
from sfda_engine.data.readers import Images
from sfda_engine.distributed.collectives import gather, process_index, processes
from sfda_engine.method.pseudo_labels import PseudoLabelled
from sfda_engine.method.teacher import Calibration, Teacher, calibrate, label_frames, make_teacher
from sfda_engine.models.preprocess import Normalization
from sfda_engine.views.view import View


def label_target(
    source: nn.Module,
    normalization: Normalization,
    frames: Images,
    views: Sequence[View],
    *,
    batch_size: int,
    progress: bool = True,
) -> PseudoLabelled:
    """Label every frame by `source`, which stays as it is, seen through `views`, the start first."""
    teacher = make_teacher(source, normalization, frames, views)
    calibration = calibrate(teacher, frames)
    labels: list[Image.Image] = []
    sizes: list[tuple[int, int]] = []
    turns = range(0, len(frames), processes() * batch_size)
    console = Console(stderr=True)
    for start in track(turns, "pseudo-labels", console=console, disable=not (progress and console.is_terminal)):
        first = start + process_index() * batch_size
        own = range(first, min(first + batch_size, len(frames)))
        label, size = (gather(share) for share in _share(teacher, calibration, frames, own, batch_size))
        labels += [Image.fromarray(one) for one in label.cpu().numpy()]
        sizes += [(width, height) for width, height in size.tolist()]
    return PseudoLabelled(frames, labels[: len(frames)], sizes[: len(frames)])


def _share(teacher: Teacher, calibration: Calibration, frames: Images, own: range, count: int) -> tuple[Tensor, Tensor]:
    """Labels (count, H, W) uint8 of the frames `own` and their sizes (count, 2) as [width, height]; rest filled."""
    (width, height), device = teacher.size, calibration.offsets.device
    labels = torch.full((count, height, width), IGNORE, dtype=torch.uint8, device=device)
    sizes = torch.zeros(count, 2, dtype=torch.int64, device=device)
    for place, (index, label) in enumerate(zip(own, label_frames(teacher, calibration, frames, own), strict=True)):
        labels[place] = label
        sizes[place] = torch.tensor(frames.image(index).size)
    return labels, sizes
