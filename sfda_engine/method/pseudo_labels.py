"""Target frames with the labels that a teacher gave them, and how they lie in a run folder."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from pathlib import Path

from PIL import Image

from sfda_engine.data.images import DECODING_ERRORS, MAX_PIXELS, open_image
from sfda_engine.data.readers import Images
from sfda_engine.errors import UserError
from sfda_engine.models.segmenter import Size

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
