"""The parity gate: is the exported file the same function as the engine's model, up to rounding?

Neither the largest error nor label agreement can tell. One flipped pooling index moves SegNet's logits by a third of
their spread without any fault, and a wrong BN channel leaves every confident label as it was. What tells is the
noise ratio: a quantile of |file - float64| over the same quantile of |torch float32 - float64|. It is near 1 for any
faithful file whatever the network's scale, and above 1,000 for the smallest fault measured. Both quantiles are medians
over batches: a batch in which an index flips, in the file or in torch, is off by a thousandfold at every quantile, and
float32's own error on one frame can be nearly nothing by luck. Without index pooling the worst batch is gated too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn
from torchmetrics.functional.classification import multiclass_confusion_matrix

from sfda_engine.errors import ExportError
from sfda_engine.evaluation.scores import scores_of
from sfda_export.reference import Frames, Reference
from sfda_runtime.card import IGNORE

QUANTILES = (0.5, 0.9, 0.999)
SMALLEST_ERROR = 1e-9
"""Floor of float32's own error, in standard deviations: a network may be exact on a frame."""
UPPER_ONLY = ("noise_p50", "noise_p90", "noise_p999", "noise_worst", "error_p999", "agreement_loss")
PROVIDER = "CPUExecutionProvider"


class ParityError(ExportError):
    """The exported file does not compute what the model computes; names the figures that failed. Exit code 1."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What `measure` found over all batches; agreement and mIoU in percent of pixels and points."""

    noise_p50: float
    """Noise ratio at the median of the error, in a typical batch."""
    noise_p90: float
    noise_p999: float
    """At 99.9 percent: a flipped index of a pooling makes it large without a fault."""
    noise_worst: float
    """Noise ratio at 90 percent in the worst batch, so that no size or light is passed over."""
    error_p999: float
    """99.9 percent quantile of |file - float64|, in standard deviations of the logits; worst batch."""
    agreement: float
    """Pixels whose label equals that of the float64 reference."""
    agreement_loss: float
    """Percentage points of agreement below that of torch float32."""
    agreement_margin_01: float
    """Agreement where the reference's two best logits lie more than 0.1 standard deviations apart."""
    agreement_margin_1: float
    """The same at 1 standard deviation."""
    miou: float
    """mIoU of the file's labels with the float64 reference's labels as truth, over all frames."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Limits of `Figures` of the same name; None = reported, not gated. The defaults are those of float32."""

    noise_p50: float | None = 3.0
    noise_p90: float | None = 3.0
    noise_p999: float | None = 10.0
    noise_worst: float | None = 30.0
    error_p999: float | None = None
    agreement_loss: float | None = 0.02
    agreement_margin_01: float | None = 100.0
    agreement_margin_1: float | None = 100.0
    miou: float | None = None


def float32_tolerance(model: nn.Module) -> Tolerance:
    """The defaults; with index pooling a flipped index is no fault, so neither are large errors in some batches.

    What one flip does to the labels stays within small margins: at a margin of 1 all must agree there too.
    """
    if any(isinstance(layer, nn.MaxPool2d) and layer.return_indices for layer in model.modules()):
        return Tolerance(noise_p999=None, noise_worst=None, agreement_loss=None, agreement_margin_01=99.9)
    return Tolerance()


def gate(
    reference: Reference, exact: Reference, path: Path, batches: Sequence[Frames], tolerance: Tolerance
) -> Figures:
    """Measure the logits file at `path` against the engine and hold the figures to `tolerance`.

    reference: the engine in float32; exact: in float64 (`reference.engine_logits`). batches: uint8 (N, H, W, 3) each.
    Raises ParityError, naming each figure out of its limit; a figure that is NaN is out of any limit.
    """
    figures = measure(reference, exact, path, batches)
    if failures := violations(figures, tolerance):
        raise ParityError(f"{path.name} is not the model that was to be exported: " + "; ".join(failures))
    return figures


def violations(figures: Figures, tolerance: Tolerance) -> list[str]:
    """One phrase for each figure that is out of its limit or NaN."""
    failures = []
    for field in fields(tolerance):
        value, limit = getattr(figures, field.name), getattr(tolerance, field.name)
        upper = field.name in UPPER_ONLY
        if limit is not None and not (value <= limit if upper else value >= limit):
            failures.append(f"{field.name} is {value:.4g}, {'above' if upper else 'below'} {limit:g}")
    return failures


def measure(reference: Reference, exact: Reference, path: Path, batches: Sequence[Frames]) -> Figures:
    """Compare the outputs `logits` and `labels` of the file with the engine's logits, batch by batch."""
    session = open_session(path)
    errors, own_errors = [], []  # quantiles in standard deviations, one row a batch
    pixels, agree, own_agree = 0, 0, 0
    confident = np.zeros((2, 2), dtype=np.int64)  # margin 0.1 and 1: pixels, agreeing pixels
    confusion: torch.Tensor | int = 0
    for frames in batches:
        truth = exact(frames)
        logits, labels = run(session, ["logits", "labels"], frames)
        own = reference(frames)
        spread = truth.std()
        errors.append(np.quantile(np.abs(logits - truth), QUANTILES) / spread)
        own_errors.append(np.maximum(np.quantile(np.abs(own - truth), QUANTILES) / spread, SMALLEST_ERROR))
        expected = truth.argmax(1)
        same = labels == expected
        pixels, agree = pixels + same.size, agree + same.sum()
        own_agree += (own.argmax(1) == expected).sum()
        margin = top_margin(truth) / spread
        confident += [[(margin > m).sum(), (same & (margin > m)).sum()] for m in (0.1, 1.0)]
        confusion = confusion + confusion_of(labels, expected, truth.shape[1])
    ratio = np.median(errors, axis=0) / np.median(own_errors, axis=0)
    assert isinstance(confusion, torch.Tensor)
    return Figures(
        noise_p50=ratio[0].item(),
        noise_p90=ratio[1].item(),
        noise_p999=ratio[2].item(),
        noise_worst=np.max(np.divide(errors, own_errors)[:, 1]).item(),
        error_p999=np.max(errors, axis=0)[2].item(),
        agreement=100 * float(agree) / pixels,
        agreement_loss=100 * float(own_agree - agree) / pixels,
        agreement_margin_01=_percent(*confident[0]),
        agreement_margin_1=_percent(*confident[1]),
        miou=scores_of(confusion, tuple(map(str, range(len(confusion))))).miou,
    )


def top_margin(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Distance of the two largest logits of each pixel: (N, K, H, W) -> (N, H, W)."""
    second, first = np.partition(logits, -2, axis=1)[:, -2:].swapaxes(0, 1)
    return first - second


def card_of(figures: Figures, tolerance: Tolerance) -> dict[str, Any]:
    """Figures and limits for the manifest."""
    return {"figures": asdict(figures), "limits": asdict(tolerance)}


def open_session(path: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """The file on the CPU provider; `threads` None: as many as torch uses here."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=[PROVIDER])


def run(session: onnxruntime.InferenceSession, outputs: list[str], frames: Frames) -> list[NDArray[Any]]:
    """The named outputs for frames; ParityError where onnxruntime cannot run a frame that torch could."""
    try:
        return session.run(outputs, {"frames": frames})
    except Exception as error:  # onnxruntime's errors have no base class of their own
        first = str(error).splitlines()[0]
        raise ParityError(
            f"onnxruntime cannot run the exported file on {len(frames)} frames of {frames.shape[2]}x{frames.shape[1]} "
            f"({first}); a network made for one size is exported with --fixed WxH"
        ) from error


def confusion_of(labels: NDArray[np.integer], truth: NDArray[np.integer], classes: int) -> torch.Tensor:
    """Confusion counts (K, K), rows = truth, where 255 is not counted; a label of 255 counts as a wrong class."""
    predicted = np.where(labels == IGNORE, (truth.astype(np.int64) + 1) % classes, labels).astype(np.int64)
    return multiclass_confusion_matrix(
        torch.from_numpy(predicted),
        torch.from_numpy(truth.astype(np.int64)),
        classes,
        ignore_index=IGNORE,
        validate_args=False,
    )


def _percent(pixels: int, agreeing: int) -> float:
    return 100 * float(agreeing) / float(pixels) if pixels else 100.0
