"""The frames that an export is tried on: real ones, spread over the run's target, and two spoiled ones."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfda_engine.config.schema import EvaluateConfig, TargetConfig
from sfda_engine.data.datasets import open_evaluate, open_target, target_paths
from sfda_engine.data.images import DECODING_ERRORS, ImageSize, decode_rgb, resize
from sfda_engine.data.readers import LabelledImages
from sfda_engine.errors import UserError
from sfda_export.reference import Frames

log = logging.getLogger(__name__)
COUNT = 8
"""Real frames; fewer only where there are fewer."""
SCENES = "scenes:"


def target_of(frames: str | None, configured: TargetConfig | None) -> TargetConfig:
    """Where the frames lie: `frames` = a folder or scenes:DOMAIN, else the run's own target. UserError if neither."""
    if frames is not None and frames.startswith(SCENES):
        return TargetConfig(dataset="scenes", split=frames.removeprefix(SCENES))
    if frames is not None:
        return TargetConfig(dataset="folder", root=frames)
    if configured is None:
        raise UserError(
            "a lone weights file has no target: name some frames of the camera with --frames DIR (the exported file is "
            f"compared with the model on them), or procedural ones with --frames {SCENES}night"
        )
    return configured


def read_frames(target: TargetConfig, size: ImageSize, count: int = COUNT) -> list[Image.Image]:
    """Up to `count` frames of the target at `size` (width, height), by the project's one resize rule.

    A folder's are spread evenly over its sorted names, since neighbors in a video are nearly equal; corrupt ones are
    left out with a warning. Raises UserError for a missing folder or one without a readable image.
    """
    if target.dataset == "scenes":
        images = open_target(dataclasses.replace(target, size=size, frames=count))
        return [images.image(index) for index in range(len(images))]
    paths = target_paths(target)
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, count).round().astype(int))]
    readable = [resize(frame, size) for frame in map(_decode, chosen) if frame is not None]
    if not readable:
        raise UserError(f"none of {len(chosen)} frames can be read, first: {chosen[0]}; repair or remove them")
    return readable


def _decode(path: Path) -> Image.Image | None:
    try:
        return decode_rgb(path)
    except DECODING_ERRORS as error:
        log.warning("skipped corrupt image %s (%s)", path, error)
        return None


def labelled(
    labels: str | None, configured: EvaluateConfig | None, class_names: tuple[str, ...], size: ImageSize
) -> LabelledImages | None:
    """Labelled frames, for reporting alone: the folder `labels` (images/ and labels/), else the run's evaluation set.

    None where neither is there. Nothing that is exported depends on a label.
    """
    config = EvaluateConfig(dataset="folder", root=labels) if labels is not None else configured
    return None if config is None else open_evaluate(config, class_names=class_names, size=size)


def gate_batches(frames: Sequence[Image.Image], second_size: ImageSize | None) -> list[Frames]:
    """Batches uint8 (N, H, W, 3) for the gate: batch 1 and 2, two sizes, a dark and a saturated frame.

    second_size (width, height) None: the graph takes one frame of one size only.
    """
    arrays = [np.asarray(frame) for frame in frames]
    singles = [*arrays, darkened(arrays[0]), saturated(arrays[0])]
    if second_size is None:
        return [array[None] for array in singles]
    pair = [frames[0], frames[-1]]
    smaller = np.stack([np.asarray(resize(frame, second_size)) for frame in pair])
    return [np.stack([np.asarray(frame) for frame in pair]), smaller, *(array[None] for array in singles)]


def darkened(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A twentieth of the light: nearly every pixel below 13 of 255."""
    return (frame * 0.05).astype(np.uint8)


def saturated(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Four times the light, cut at 255."""
    return np.clip(frame * 4.0, 0, 255).astype(np.uint8)


def second_size(size: ImageSize, multiple: int, smallest: int) -> ImageSize:
    """Another size for the gate: about three quarters, odd where the network permits, so that rounding shows."""
    other = ImageSize(*(max(smallest, (3 * value // 4 - 1) // multiple * multiple) for value in size))
    return other if other != size else ImageSize(other.width + 32, other.height + 32)


def hash_of(batches: Sequence[Frames]) -> str:
    """SHA-256 over the pixels and shapes of all batches."""
    digest = hashlib.sha256()
    for batch in batches:
        digest.update(repr(batch.shape).encode())
        digest.update(np.ascontiguousarray(batch).tobytes())
    return digest.hexdigest()
