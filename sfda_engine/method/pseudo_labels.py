"""Target frames with the labels that the teacher gave them, for self-training: made once, kept as PNG files."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from sfda_engine.data.folder import IGNORE
from sfda_engine.data.images import DECODING_ERRORS, MAX_PIXELS, ImageSize, open_image
from sfda_engine.data.readers import Images
from sfda_engine.distributed.collectives import gather, process_index, processes
from sfda_engine.errors import UserError
from sfda_engine.method.teacher import DROP, Calibration, Teacher, calibrate, label_frames, make_teacher
from sfda_engine.models.preprocess import Normalization
from sfda_engine.views.view import View

# what a damaged zip file raises beyond DECODING_ERRORS
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, OverflowError, RecursionError, NotImplementedError, RuntimeError)


class PseudoLabelled:
    """Target frames with labels: what `TrainingFrames` reads as labelled images. A few kilobytes a frame."""

    def __init__(self, images: Images, labels: Iterable[Image.Image], sizes: Sequence[ImageSize]) -> None:
        """`labels` are 8-bit of any size, 255 = not labelled; `sizes` the frames' own (width, height)."""
        self.images, self.sizes = images, list(sizes)
        self.encoded = [encode(label) for label in labels]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.images.name(index)

    def image(self, index: int) -> Image.Image:
        return self.images.image(index)

    def label(self, index: int) -> Image.Image:
        """The pseudo-label at the frame's own size, 255 where the teacher is not sure."""
        return decode(self.encoded[index]).resize(self.sizes[index], Image.Resampling.NEAREST)


def encode(label: Image.Image) -> bytes:
    """A label as a PNG file."""
    png = io.BytesIO()
    label.save(png, format="PNG", compress_level=1)  # several times faster, a little larger
    return png.getvalue()


def decode(content: bytes) -> Image.Image:
    """The label of a PNG file. Raises one of DECODING_ERRORS where it is none."""
    with open_image(io.BytesIO(content)) as image:
        if image.mode != "L":
            raise ValueError(f"a label of mode {image.mode}")
        return image.copy()


def save_labels(path: Path, labelled: PseudoLabelled) -> None:
    """Write the labels as a zip file of PNG files, one a frame, and `sizes.json`, the frames' own sizes."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("sizes.json", json.dumps(labelled.sizes))
        for index, png in enumerate(labelled.encoded):
            file.writestr(f"{index:07d}.png", png)


def load_labels(path: Path, images: Images) -> PseudoLabelled:
    """The labels that `save_labels` wrote for these very frames. UserError where the file is damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            if max((entry.file_size for entry in file.infolist()), default=0) > MAX_PIXELS:
                raise ValueError("an entry is larger than any label")
            sizes = [ImageSize(int(width), int(height)) for width, height in json.loads(file.read("sizes.json"))]
            labelled = PseudoLabelled(
                images, (decode(file.read(f"{index:07d}.png")) for index in range(len(sizes))), sizes
            )
        if len(sizes) != len(images) or any(not 0 < min(size) <= max(size) <= MAX_PIXELS for size in sizes):
            raise ValueError(f"{len(sizes)} labels for {len(images)} frames, or one of an impossible size")
    except (*DECODING_ERRORS, *ZIP_ERRORS) as error:
        raise UserError(
            f"{path} is damaged ({repr(error)[:200]}); delete its folder, and the resumed run makes it anew"
        ) from error
    return labelled


def label_target(
    source: nn.Module,
    normalization: Normalization,
    target: Images,
    views: Sequence[View],
    *,
    drop: float = DROP,
    progress: bool = True,
) -> PseudoLabelled:
    """Label every target frame by the source under `views`, the chosen start first; `source` stays as it is.

    Each process labels its share of the frames, and all get all labels; what comes before, each does for itself.
    `drop` (0..1) is the share of each class's pixels, the least sure, that stays unlabelled.
    """
    teacher = make_teacher(source, normalization, target, views)
    calibration = calibrate(teacher, target, drop)
    turns = range(0, len(target), processes() * teacher.batch)
    console = Console(stderr=True)
    labelled = PseudoLabelled(target, (), ())
    for start in track(turns, "pseudo-labels", console=console, disable=not (progress and console.is_terminal)):
        first = start + process_index() * teacher.batch
        indices = range(first, min(first + teacher.batch, len(target)))
        label, size_of = (gather(share) for share in turn(teacher, calibration, target, indices))
        labelled.encoded += [encode(Image.fromarray(one)) for one in label.cpu().numpy()]
        labelled.sizes += [ImageSize(width, height) for width, height in size_of.tolist()]
    del labelled.encoded[len(target) :], labelled.sizes[len(target) :]
    return labelled


def turn(teacher: Teacher, calibration: Calibration, target: Images, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Labels (B, H, W) uint8 of a batch's frames and their sizes (B, 2) as [width, height]; where there is no frame
    left, fillings, since all processes gather alike."""
    width, height = teacher.size
    device = calibration.offsets.device
    labels = torch.full((teacher.batch, height, width), IGNORE, dtype=torch.uint8, device=device)
    sizes = torch.ones(teacher.batch, 2, dtype=torch.int64, device=device)
    for row, label in enumerate(label_frames(teacher, calibration, target, indices)):
        labels[row] = label
        sizes[row] = torch.tensor(target.image(indices[row]).size)
    return labels, sizes
