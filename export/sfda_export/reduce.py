"""A bundle's files in fewer bits: converted in place, and judged by limits of their own.

Noise ratios do not judge them: they are in units of float32's rounding, and here hundreds to 100,000 by design.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from sfda_export.frames import hash_of, saturated
from sfda_export.parity import ParityError, Tolerance
from sfda_export.precision import reduce_precision

Reduced = Literal["fp16", "int8"]

CALIBRATION_FRAMES = 32
"""Target frames that INT8's ranges are taken from; four gave the same scores on the models that were measured."""
_UNRATED = Tolerance(noise_p50=None, noise_p90=None, noise_p999=None, noise_worst=None, agreement_loss=None)
TOLERANCES: dict[Reduced, Tolerance] = {
    "fp16": replace(_UNRATED, error_p999=0.05, agreement_margin_01=99.95, agreement_margin_1=100.0, miou=98.0),
    "int8": replace(_UNRATED, agreement_margin_01=99.0, agreement_margin_1=99.9, miou=85.0),
}
"""Limits over all of the gate's frames, a dark and a saturated one among them. The worst of four trained models: fp16
error 0.017, mIoU 99.8; INT8 99.4 % at margin 0.1, 100 % at margin 1, mIoU 95.2 (streetnet) and 90.3 (lraspp)."""
LARGEST_DROP: dict[Reduced, float] = {"fp16": 0.3, "int8": 1.0}
"""Points of mIoU on labelled frames that the file may lose to the engine, where there are labels."""


def reduce_files(folder: Path, precision: Reduced, frames: Sequence[Image.Image]) -> dict[str, Any] | None:
    """Convert every ONNX file in `folder` in place; the calibration as the manifest tells it, None for fp16.

    frames: RGB at the model's size, of the target. Raises UserError as `reduce_precision` does.
    """
    arrays = [np.asarray(frame) for frame in frames]
    # without it, ranges end where the light did: an overexposed frame then lost up to 3 % of its confident labels
    arrays.append(saturated(arrays[0]))
    for path in sorted(folder.glob("*.onnx")):
        reduced = path.with_suffix(".reduced")
        reduce_precision(path, reduced, precision, arrays)
        os.replace(reduced, path)
    if precision == "fp16":
        return None
    return {"method": "MinMax", "per_channel": True, "frames": len(frames), "overexposed": 1, "sha256": hash_of(arrays)}


def check_drop(miou: dict[str, Any] | None, precision: Reduced) -> None:
    """ParityError where the file's mIoU (`shipped.miou_difference`) is below the engine's by more than LARGEST_DROP."""
    if miou is not None and not -miou["difference"] <= LARGEST_DROP[precision]:
        raise ParityError(
            f"{precision} loses {-miou['difference']:.2f} points of mIoU on {miou['frames']} labelled frames, more "
            f"than {LARGEST_DROP[precision]:g}; export another precision"
        )
