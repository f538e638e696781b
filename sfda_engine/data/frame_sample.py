"""A few frames, evenly spread over a data set, and what is wrong with them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfda_engine.data.frame_files import FrameFiles
from sfda_engine.data.images import DECODING_ERRORS, ImageSize, resize, to_float_tensor
from sfda_engine.data.readers import Images

# a frame whose pixels deviate by less than this (of 255) shows nothing
CONSTANT = 1.0

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class FrameSample:
    """What was looked at."""

    total: int
    """Frames of the data set."""
    read: int
    """Frames that were looked at."""
    usable: tuple[int, ...]
    """Indices of the frames that can be decoded and show something."""
    sizes: dict[ImageSize, int]
    """(width, height) -> number of the frames that could be decoded."""
    unreadable: tuple[str, ...]
    """Names of the frames that cannot be decoded, each with the reason."""
    constant: tuple[str, ...]
    """Names of the frames of one color."""
    duplicates: tuple[tuple[str, ...], ...]
    """Names of frames that are equal, by groups: over all files, or where there are none, over the frames read."""


class SampledFrames:
    """Some frames of a data set, by their indices there, as `Images`."""

    def __init__(self, images: Images, indices: tuple[int, ...]) -> None:
        self.images, self.indices = images, indices

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.images.name(self.indices[index])

    def image(self, index: int) -> Image.Image:
        return self.images.image(self.indices[index])


def read_sample(images: Images, count: int, size: ImageSize) -> tuple[FrameSample, Tensor]:
    """Read `count` frames of a data set, the first and the last among them, or all where there are fewer.

    Returns what was seen and the usable frames at `size` (width, height): float32 (N, 3, H, W) RGB in [0, 1].
    """
    chosen = spread(len(images), count)
    frames: dict[int, Tensor] = {}
    sizes: Counter[ImageSize] = Counter()
    digests: dict[str, bytes] = {}
    unreadable, constant = [], []
    for index in chosen:
        name = images.paths[index].name if isinstance(images, FrameFiles) else images.name(index)
        try:
            image = images.image(index)
        except DECODING_ERRORS as error:
            unreadable.append(f"{name} ({str(error) or type(error).__name__})")
            continue
        sizes[ImageSize(*image.size)] += 1
        digests[name] = hashlib.sha256(image.tobytes()).digest()
        if np.asarray(image).std(axis=(0, 1)).max() < CONSTANT:
            constant.append(name)
        else:
            frames[index] = to_float_tensor(resize(image, size))
    duplicates = equal_files(images.paths) if isinstance(images, FrameFiles) else groups(digests, digests.__getitem__)
    sample = FrameSample(
        total=len(images),
        read=len(chosen),
        usable=tuple(frames),
        sizes=dict(sizes.most_common()),
        unreadable=tuple(unreadable),
        constant=tuple(constant),
        duplicates=tuple(tuple(group) for group in duplicates),
    )
    return sample, torch.stack([*frames.values()]) if frames else torch.empty(0, 3, *size.hw)


def spread(total: int, count: int) -> list[int]:
    """`count` indices below `total`, the first and the last among them, evenly spread; all where there are fewer."""
    return sorted(set(np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()))


def equal_files(paths: list[Path]) -> list[list[str]]:
    """Names of files of equal content, by groups; only files of equal length are read."""
    same_length = groups(paths, lambda path: path.stat().st_size)
    equal = [groups(paths, lambda path: hashlib.sha256(path.read_bytes()).digest()) for paths in same_length]
    return [[path.name for path in group] for found in equal for group in found]


def groups(items: Iterable[Item], key: Callable[[Item], Hashable]) -> list[list[Item]]:
    """Items that share a key with another one, by groups."""
    by_key: dict[Hashable, list[Item]] = defaultdict(list)
    for item in items:
        by_key[key(item)].append(item)
    return [group for group in by_key.values() if len(group) > 1]
