"""A look at labelled frames before a long run: what would end it hours later ends it now, with nothing written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sfda_engine.data.frame_files import PairedFiles
from sfda_engine.data.images import cut_short
from sfda_engine.data.readers import LabelledImages
from sfda_engine.errors import UserError

SAMPLE = 16


def look_at(images: LabelledImages, *, same_size: bool) -> None:
    """See every file of a published data set to its end and decode SAMPLE frames with their labels, spread evenly.

    Raises UserError where a file stops early, a label has another encoding or a value that is no class, or with
    `same_size` where a label has not the size of its frame, as training needs it.
    """
    if isinstance(images, PairedFiles):
        _see_ends(images)
    for index in np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).round().astype(int).tolist():
        frame, label = images.image(index), images.label(index)
        if same_size and frame.size != label.size:
            raise UserError(
                f"frame {images.name(index)} is {frame.width}x{frame.height}, its label {label.width}x{label.height}; "
                "training needs labels of the frames' size: take the data set's own files"
            )


def _see_ends(images: PairedFiles) -> None:
    paths = [path for pair in images.pairs for path in (pair.frame, pair.label)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        cut = [path for path, error in zip(paths, pool.map(cut_short, paths), strict=True) if error is not None]
    if cut:
        raise UserError(
            f"{len(cut)} of {len(paths)} files of frames and labels stop before their end, as {cut[0]}: extract the "
            "archive again (python -m sfda_engine.data.check ROOT lists them)"
        )
