"""The files that ship, held to the logits file that passed the gate, and their mIoU where labels exist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sfda_engine.data.images import ImageSize, resize
from sfda_engine.data.readers import LabelledImages
from sfda_engine.evaluation.scores import scores_of
from sfda_export.parity import ParityError, confusion_of, open_session, run, top_margin
from sfda_export.reference import Frames, Reference

ROUNDING = 1e-5
"""Margin between the two best logits, in standard deviations, below which two files may order them differently."""
LEVELS_SHARE = 99.9
"""Percent of pixels whose confidence and entropy must be within 1 of 255."""
MOST_LABELLED = 64


def check_read_out(folder: Path, batches: Sequence[Frames]) -> dict[str, float]:
    """Compare model.onnx and model_diag.onnx with model_logits.onnx, all in onnxruntime, over all batches.

    Labels must equal the argmax of the logits wherever the two best lie more than a rounding apart; confidence and
    entropy must follow from the logits. Returns percentages of pixels that agree. Raises ParityError.
    """
    logits_file, labels_file, diagnostics_file = (
        open_session(folder / name) for name in ("model_logits.onnx", "model.onnx", "model_diag.onnx")
    )
    limits = {"labels": 100.0, "diagnostics_labels": 100.0, "confidence": LEVELS_SHARE, "entropy": LEVELS_SHARE}
    counts = dict.fromkeys(limits, 0)
    for frames in batches:
        (logits,) = run(logits_file, ["logits"], frames)
        expected, tied = logits.argmax(1), top_margin(logits) <= ROUNDING * logits.std()
        confidence, entropy = softmax_levels(logits.astype(np.float64))
        (labels,) = run(labels_file, ["labels"], frames)
        diagnostics = run(diagnostics_file, ["labels", "confidence", "entropy"], frames)
        counts["labels"] += int(np.count_nonzero((labels == expected) | tied))
        counts["diagnostics_labels"] += int(np.count_nonzero((diagnostics[0] == expected) | tied))
        counts["confidence"] += int(np.count_nonzero(np.abs(diagnostics[1] - confidence) <= 1))
        counts["entropy"] += int(np.count_nonzero(np.abs(diagnostics[2] - entropy) <= 1))
    pixels = sum(frames[..., 0].size for frames in batches)
    shares = {name: 100 * count / pixels for name, count in counts.items()}
    if failures := [
        f"{name} of {100 - shares[name]:.4f} % of pixels" for name in limits if shares[name] < limits[name]
    ]:
        raise ParityError("the files that ship do not follow from their own logits: " + "; ".join(failures))
    return shares


def softmax_levels(logits: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """round(255 * largest probability) and round(255 * entropy / ln K) of (N, K, H, W), (N, H, W) each."""
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    p = exponentials / exponentials.sum(1, keepdims=True)
    entropy = -(p * np.log(np.maximum(p, np.finfo(p.dtype).tiny))).sum(1) / np.log(p.shape[1])
    return np.round(255 * p.max(1)), np.round(255 * entropy)


def miou_difference(
    reference: Reference,
    path: Path,
    images: LabelledImages,
    size: ImageSize,
    names: tuple[str, ...],
) -> dict[str, Any]:
    """mIoU in percent of the engine and of the labels file on labelled frames: reported, never decided upon.

    Both sides' labels are made at `size` (width, height) and brought to the labels' own size by nearest neighbor, as
    on the vehicle. At most the first MOST_LABELLED frames.
    """
    session = open_session(path)
    count = min(len(images), MOST_LABELLED)
    totals = {"engine": torch.zeros(0), "onnx": torch.zeros(0)}
    for index in range(count):
        frames = np.asarray(resize(images.image(index), size))[None]
        truth = np.asarray(images.label(index))
        predictions = {
            "engine": reference(frames).argmax(1).astype(np.uint8),
            "onnx": run(session, ["labels"], frames)[0],
        }
        for side, (labels,) in predictions.items():
            own_size = Image.fromarray(labels).resize(truth.shape[::-1], Image.Resampling.NEAREST)
            counts = confusion_of(np.asarray(own_size), truth, len(names))
            totals[side] = counts if index == 0 else totals[side] + counts
    engine, onnx = (scores_of(totals[side], names).miou for side in ("engine", "onnx"))
    return {"engine": engine, "onnx": onnx, "difference": onnx - engine, "frames": count}
