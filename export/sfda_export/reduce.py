"""A bundle's files in fewer bits: converted in place, and judged by limits of their own.

Noise ratios do not judge them: they are in units of float32's rounding, and here hundreds to 100,000 by design.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from sfda_export.frames import hash_of
from sfda_export.parity import ParityError, Tolerance
from sfda_export.precision import reduce_precision

Reduced = Literal["fp16", "int8"]

CALIBRATION_FRAMES = 32
"""Target frames that INT8's ranges are taken from; four gave the same scores on the models that were measured."""
TOLERANCES: dict[Reduced, Tolerance] = {
    "fp16": Tolerance(
        noise_p50=None,
        noise_p90=None,
        noise_p999=None,
        error_p999=0.05,
        agreement_loss=None,
        agreement_margin_01=99.95,
        agreement_margin_1=100.0,
        miou=98.0,
    ),
    "int8": Tolerance(
        noise_p50=None,
        noise_p90=None,
        noise_p999=None,
        agreement_loss=None,
        agreement_margin_01=99.0,
        agreement_margin_1=99.9,
        miou=85.0,
    ),
}
"""Limits over all of the gate's frames, of which the dark and the saturated one are outside of what INT8 was calibrated
on. Trained models had: fp16 error 0.02 and mIoU 99.8, int8 agreement 99.6 at margin 0.1 and mIoU 88.9 at worst."""
LARGEST_DROP: dict[Reduced, float] = {"fp16": 0.1, "int8": 1.0}
"""Points of mIoU on labelled frames that the file may lose to the engine, where there are labels."""


def reduce_files(folder: Path, precision: Reduced, frames: Sequence[Image.Image]) -> dict[str, Any] | None:
    """Convert every ONNX file in `folder` in place; the calibration as the manifest tells it, None for fp16.

    frames: RGB at the model's size, of the target. Raises UserError as `reduce_precision` does.
    """
    arrays = [np.asarray(frame) for frame in frames]
    for path in sorted(folder.glob("*.onnx")):
        reduced = path.with_suffix(".reduced")
        reduce_precision(path, reduced, precision, arrays)
        os.replace(reduced, path)
    if precision == "fp16":
        return None
    return {"method": "MinMax", "per_channel": True, "frames": len(arrays), "sha256": hash_of(arrays)}


def check_drop(miou: dict[str, Any] | None, precision: Reduced) -> None:
    """ParityError where the file's mIoU (`shipped.miou_difference`) is below the engine's by more than LARGEST_DROP."""
    if miou is not None and not -miou["difference"] <= LARGEST_DROP[precision]:
        raise ParityError(
            f"{precision} loses {-miou['difference']:.2f} points of mIoU on {miou['frames']} labelled frames, more "
            f"than {LARGEST_DROP[precision]:g}; export another precision"
        )
