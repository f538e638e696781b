"""Loaders: seeded draws that do not depend on who asks, so that a run can stop, resume and spread over processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from sfda_engine.data.images import ImageSize, resize, to_float_tensor
from sfda_engine.data.readers import Images, LabelledImages
from sfda_engine.errors import UserError


class TargetItem(TypedDict):
    image: Tensor
    name: str


class LabelledItem(TypedDict):
    image: Tensor
    label: Tensor
    name: str


class Draws(Sampler[tuple[int, int]]):
    """(draw, frame) pairs for draws `start` to `stop`: each pass over the frames in an order of its own.

    The order is a function of (seed, draw) alone, so a resumed run continues with the very frames it would have had.
    """

    def __init__(self, frames: int, *, seed: int, start: int, stop: int) -> None:
        self.frames, self.seed, self.start, self.stop = frames, seed, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order: list[int] = []
        epoch = -1
        for draw in range(self.start, self.stop):
            if draw // self.frames != epoch:
                epoch = draw // self.frames
                generator = torch.Generator().manual_seed(mix_seeds(self.seed, epoch))
                order = torch.randperm(self.frames, generator=generator).tolist()
            yield draw, order[draw % self.frames]


def mix_seeds(*parts: int) -> int:
    """One 63-bit seed from several integers (stable across processes and Python versions)."""
    mixed = 0x9E3779B97F4A7C15
    for part in parts:
        mixed = ((mixed ^ (part + 0x7F4A7C15)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed >> 1


class TargetFrames(Dataset[TargetItem]):
    """Unlabelled target frames for adaptation: float32 (3, H, W) in [0, 1] and a name, nothing else.

    Frames are resized to `size`; with `crop`, a random part of that size is left of each. Sizes are (width, height).
    """

    def __init__(
        self, images: Images, *, size: ImageSize, flip: bool, seed: int, crop: ImageSize | None = None
    ) -> None:
        self.images, self.size, self.seed = images, size, seed
        self.augment = v2.Compose([v2.RandomHorizontalFlip(0.5 if flip else 0.0), *random_crop(crop)])

    def __getitem__(self, key: tuple[int, int]) -> TargetItem:
        draw, index = key
        image = to_float_tensor(resize(self.images.image(index), self.size))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mix_seeds(self.seed, 1, draw))  # the CPU's alone
            image = self.augment(image)
        return {"image": image, "name": self.images.name(index)}


def random_crop(size: ImageSize | None) -> list[v2.Transform]:
    """The transform that leaves a random part of `size` (width, height); none for None."""
    return [] if size is None else [v2.RandomCrop(size.hw)]


class TrainingFrames(Dataset[LabelledItem]):
    """Augmented labelled source frames for `train_source`: random zoom and crop, flip, color jitter.

    With `crop` (width, height), a random part of that size is left of the frame at `size`.
    image float32 (3, H, W) in [0, 1]; label int64 (H, W).
    """

    def __init__(
        self,
        images: LabelledImages,
        *,
        size: ImageSize,
        scale: tuple[float, float],
        flip: bool,
        jitter: float,
        seed: int,
        crop: ImageSize | None = None,
    ) -> None:
        self.images, self.seed = images, seed
        self.size, self.scale = size, scale
        self.augment = v2.Compose(
            [
                v2.RandomHorizontalFlip(0.5 if flip else 0.0),
                *random_crop(crop),
                v2.ColorJitter(brightness=jitter, contrast=jitter, saturation=jitter),
                v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}, scale=True),
            ]
        )

    def __getitem__(self, key: tuple[int, int]) -> LabelledItem:
        draw, index = key
        frame, truth = self.images.image(index), self.images.label(index)
        if frame.size != truth.size:
            raise UserError(
                f"frame {self.images.name(index)} is {frame.width}x{frame.height}, its label {truth.width}x"
                f"{truth.height}; training needs labels of the frames' size"
            )
        image = tv_tensors.Image(transforms.pil_to_tensor(frame))
        label = tv_tensors.Mask(transforms.pil_to_tensor(truth)[0])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mix_seeds(self.seed, 1, draw))  # the CPU's alone
            image, label = self.augment(*self.crop(frame.width / frame.height)(image, label))
        return {
            "image": image.as_subclass(Tensor),
            "label": label.as_subclass(Tensor),
            "name": self.images.name(index),
        }

    def crop(self, aspect: float) -> v2.RandomResizedCrop:
        """Crops have the frame's own aspect (width / height), so that zoom 1 is the whole frame, as evaluation sees it.

        A zoom by s shows 1 / s^2 of the frame.
        """
        low, high = self.scale
        return v2.RandomResizedCrop(self.size.hw, scale=(high**-2, low**-2), ratio=(aspect, aspect))


class EvaluationFrames(Dataset[LabelledItem]):
    """Labelled frames as they are: image float32 (3, H, W) at `size`, label int64 at the labels' own size."""

    def __init__(self, images: LabelledImages, *, size: ImageSize) -> None:
        self.images, self.size = images, size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> LabelledItem:
        label = transforms.pil_to_tensor(self.images.label(index))[0].long()
        return {
            "image": to_float_tensor(resize(self.images.image(index), self.size)),
            "label": label,
            "name": self.images.name(index),
        }


def draw_loader(
    frames: Dataset, count: int, *, batch_size: int, seed: int, start: int, stop: int, num_workers: int = 0
) -> DataLoader:
    """Batches of `count` frames for steps `start` to `stop`, by `Draws`; `batch_size` is the global one."""
    sampler = Draws(count, seed=seed, start=start * batch_size, stop=stop * batch_size)
    return DataLoader(
        frames,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        drop_last=True,
        generator=torch.Generator().manual_seed(seed),  # without one, every pass draws from the global one
    )
