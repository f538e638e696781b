"""Pseudo-labels of the target frames, for self-training: made once, by the BN-warm-started source itself.

The teacher sees every frame at several scales and mirrored, each scale with BatchNorm statistics of its own, and
averages. On its own an average forgets small classes, so its logits are shifted until each class covers the share of
pixels that the model gives it at the plain scale; of each class the least confident pixels are left out.

Shapes: B batch, K classes, M sampled pixels.
"""

from __future__ import annotations

import copy
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from sfda_engine.data.folder import IGNORE
from sfda_engine.data.images import DECODING_ERRORS, MAX_PIXELS, open_image, resize, to_float_tensor
from sfda_engine.data.readers import Images
from sfda_engine.distributed.collectives import gather, process_index, processes
from sfda_engine.errors import UserError
from sfda_engine.models.norms import mix_statistics, reestimate_statistics
from sfda_engine.models.segmenter import Size, alignment_of, scaled_size, upsample

SCALES = (1.0, 1.5)
"""Input sizes, as factors of the student's, that the labels average over; the largest bounds the student's zoom."""
DROP = 0.2
"""Share of each class's pixels, the least confident, that get no pseudo-label."""
SAMPLED_FRAMES = 128
SAMPLED_PIXELS = 2048
ALIGNMENT_STEPS = 40
EPSILON = 1e-5
# what a damaged zip file raises beyond DECODING_ERRORS
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, OverflowError, RecursionError, NotImplementedError, RuntimeError)


class PseudoLabelled:
    """Target frames with the labels that a teacher gave them: what `TrainingFrames` reads as labelled images."""

    def __init__(self, images: Images, labels: list[Image.Image], sizes: list[Size]) -> None:
        self.images, self.labels, self.sizes = images, labels, sizes

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.images.name(index)

    def image(self, index: int) -> Image.Image:
        return self.images.image(index)

    def label(self, index: int) -> Image.Image:
        """The pseudo-label at the frame's own size, 255 where the teacher is not sure."""
        return self.labels[index].resize(self.sizes[index], Image.Resampling.NEAREST)


def save_labels(path: Path, labelled: PseudoLabelled) -> None:
    """Write the labels as a zip file of PNG files, one a frame, and `sizes.json`, the frames' own sizes."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("sizes.json", json.dumps(labelled.sizes))
        for index, label in enumerate(labelled.labels):
            png = io.BytesIO()
            label.save(png, format="PNG", compress_level=1)  # several times faster, a little larger
            file.writestr(f"{index:07d}.png", png.getvalue())


def load_labels(path: Path, images: Images) -> PseudoLabelled:
    """The labels that `save_labels` wrote for these very frames."""
    try:
        with zipfile.ZipFile(path) as file:
            if max((entry.file_size for entry in file.infolist()), default=0) > MAX_PIXELS:
                raise ValueError("an entry is larger than any label")
            sizes = [(int(width), int(height)) for width, height in json.loads(file.read("sizes.json"))]
            labels = [_label_of(file.read(f"{index:07d}.png")) for index in range(len(sizes))]
        if len(sizes) != len(images) or any(not 0 < min(size) <= max(size) <= MAX_PIXELS for size in sizes):
            raise ValueError(f"{len(sizes)} labels for {len(images)} frames, or one of an impossible size")
    except (*DECODING_ERRORS, *ZIP_ERRORS) as error:
        raise UserError(
            f"{path} is damaged ({repr(error)[:200]}); delete its folder, and the resumed run makes it anew"
        ) from error
    return PseudoLabelled(images, labels, sizes)


def _label_of(content: bytes) -> Image.Image:
    with open_image(io.BytesIO(content)) as image:
        if image.mode != "L":
            raise ValueError(f"a label of mode {image.mode}")
        return image.copy()


@dataclass(frozen=True)
class Teacher:
    """Copies of one network by input size (width, height), the plain size first; `preprocess` serves all."""

    networks: dict[Size, nn.Module]
    preprocess: nn.Module
    device: torch.device

    @property
    def plain(self) -> Size:
        return next(iter(self.networks))

    @torch.no_grad()
    def logits(self, frames: Sequence[Image.Image], size: Size) -> Tensor:
        """Logits (B, K, h, w) of RGB frames of any size, seen at `size` and then mirrored: two passes stacked."""
        network = self.networks[size]
        images = _tensor(self.preprocess, frames, size, self.device)
        return torch.stack([network(images).logits, network(images.flip(-1)).logits.flip(-1)]).float()

    def probabilities(self, frames: Sequence[Image.Image]) -> Tensor:
        """Mean softmax over scales and mirrorings, (B, K, H, W) at the largest size."""
        width, height = max(self.networks)
        views = [view for size in self.networks for view in self.logits(frames, size)]
        return torch.stack([upsample(view, (height, width)).softmax(1) for view in views]).mean(0)


def label_target(
    student: nn.Module,
    preprocess: nn.Module,
    target: Images,
    *,
    size: Size,
    scales: Sequence[float] = SCALES,
    drop: float = DROP,
    batch_size: int,
    device: torch.device,
    source: nn.Module,
    source_share: float = 0.0,
    progress: bool = True,
) -> PseudoLabelled:
    """Label every target frame by `student`, which stays as it is; `scales` are factors of `size` (width, height).

    `source_share` (0..1) of the BN statistics at other scales than 1 are the source's own, as of the student's.

    Each process labels its share of the frames, and all get all labels; what comes before, each does for itself.
    `drop` (0..1) is the share of each class's pixels, the least confident, that stays unlabelled.
    """
    teacher = make_teacher(student, preprocess, target, size, scales, batch_size, device)
    for scaled, network in teacher.networks.items():
        if scaled != teacher.plain:
            mix_statistics(network, source, source_share)
    offsets, thresholds = calibrate(teacher, target, drop, batch_size)
    labels: list[Image.Image] = []
    sizes: list[Size] = []
    turns = range(0, len(target), processes() * batch_size)
    console = Console(stderr=True)
    for start in track(turns, "pseudo-labels", console=console, disable=not (progress and console.is_terminal)):
        first = start + process_index() * batch_size
        frames = [target.image(index) for index in range(first, min(first + batch_size, len(target)))]
        label, size_of = (gather(share) for share in _label(teacher, frames, offsets, thresholds, batch_size))
        labels += [Image.fromarray(one) for one in label.cpu().numpy()]
        sizes += [(width, height) for width, height in size_of.tolist()]
    return PseudoLabelled(target, labels[: len(target)], sizes[: len(target)])


def _label(
    teacher: Teacher, frames: list[Image.Image], offsets: Tensor, thresholds: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Labels (count, H, W) uint8 of up to `count` frames and their sizes (count, 2) as [width, height]; rest filled."""
    width, height = max(teacher.networks)
    labels = torch.full((count, height, width), IGNORE, dtype=torch.uint8, device=offsets.device)
    sizes = torch.zeros(count, 2, dtype=torch.int64, device=offsets.device)
    if frames:
        confidence, label = shifted(teacher.probabilities(frames), offsets).max(1)
        label[confidence < thresholds[label]] = IGNORE
        labels[: len(frames)] = label.to(torch.uint8)
        sizes[: len(frames)] = torch.tensor([frame.size for frame in frames])
    return labels, sizes


def make_teacher(
    student: nn.Module,
    preprocess: nn.Module,
    target: Images,
    size: Size,
    scales: Sequence[float],
    batch_size: int,
    device: torch.device,
) -> Teacher:
    """One copy of `student` a scale; those at other scales get BN statistics of the target frames at that scale."""
    networks: dict[Size, nn.Module] = {size: copy.deepcopy(student).to(device).eval()}
    for scale in scales:
        scaled = scaled_size(size, scale, alignment_of(student))
        if scale == 1 or scaled in networks:
            continue
        networks[scaled] = copy.deepcopy(student).to(device).eval()
        frames = ([target.image(index) for index in indices] for indices in _batches(len(target), batch_size))
        reestimate_statistics(networks[scaled], (_tensor(preprocess, batch, scaled, device) for batch in frames))
    return Teacher(networks, preprocess, device)


def calibrate(teacher: Teacher, target: Images, drop: float, batch_size: int) -> tuple[Tensor, Tensor]:
    """Class offsets (K,) of the log-probabilities and confidence thresholds (K,), from a sample of the pixels."""
    every = max(1, len(target) // SAMPLED_FRAMES)
    averaged: list[Tensor] = []
    single: list[Tensor] = []
    for indices in _batches(len(target), batch_size, every):
        frames = [target.image(index) for index in indices]
        averaged.append(_sample(teacher.probabilities(frames)))
        single.append(_sample(teacher.logits(frames, teacher.plain)[0]))
    probabilities, plain = torch.cat(averaged), torch.cat(single)  # (M, K)
    share = plain.argmax(1).bincount(minlength=plain.shape[1]) / len(plain)
    offsets = align_shares(probabilities, share)
    confidence, label = shifted(probabilities, offsets).max(1)
    thresholds = torch.zeros_like(share)
    for index in range(len(share)):
        if (chosen := confidence[label == index]).numel():
            thresholds[index] = chosen.quantile(drop)
    return offsets, thresholds


def align_shares(probabilities: Tensor, share: Tensor) -> Tensor:
    """Offsets (K,) of the log-probabilities (M, K) with which each class wins `share` (K,) of the pixels.

    Distribution alignment (Berthelot et al., ReMixMatch, 2020) on hard decisions, by damped fixed-point steps.
    """
    logs = (probabilities + EPSILON).log()
    offsets = torch.zeros_like(share)
    for _ in range(ALIGNMENT_STEPS):
        won = (logs + offsets).argmax(1).bincount(minlength=len(share)) / len(logs)
        offsets = offsets + 0.5 * ((share + EPSILON).log() - (won + EPSILON).log())
    return offsets


def shifted(probabilities: Tensor, offsets: Tensor) -> Tensor:
    """Probabilities (., K, ...) with `offsets` (K,) added to their logarithms, normalized again."""
    shape = (1, -1) + (1,) * (probabilities.ndim - 2)
    return ((probabilities + EPSILON).log() + offsets.view(shape)).softmax(1)


def _tensor(preprocess: nn.Module, frames: Sequence[Image.Image], size: Size, device: torch.device) -> Tensor:
    images = torch.stack([to_float_tensor(resize(frame, size)) for frame in frames]).to(device)
    return preprocess(images).contiguous(memory_format=torch.channels_last)


def _sample(maps: Tensor) -> Tensor:
    """Evenly spaced pixels of maps (B, K, H, W): (M, K), at most about SAMPLED_PIXELS of a frame."""
    pixels = maps.flatten(2)
    return pixels[:, :, :: max(1, pixels.shape[2] // SAMPLED_PIXELS)].transpose(1, 2).flatten(0, 1)


def _batches(count: int, batch_size: int, every: int = 1) -> Iterator[range]:
    """Indices 0, every, 2 every, ... below `count`, in batches."""
    chosen = range(0, count, every)
    return (chosen[first : first + batch_size] for first in range(0, len(chosen), batch_size))
