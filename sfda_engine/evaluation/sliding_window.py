"""Sliding-window inference: logits of a large image from overlapping windows, memory bounded by one of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sfda_engine.errors import UserError
from sfda_engine.models.segmenter import ALIGNMENT


class Window(NamedTuple):
    """Sides in pixels, multiples of ALIGNMENT, and the share (0..1) of each side that the next window covers again."""

    width: int
    height: int
    overlap: float


def spans(side: int, window: int, overlap: float) -> list[tuple[int, int]]:
    """[first, end) of windows that cover `side` pixels, at least `overlap` of each shared with the next.

    All begin on multiples of ALIGNMENT; the last one reaches the end, and is up to ALIGNMENT - 1 longer for it.
    """
    if window >= side:
        return [(0, side)]
    stride = max(ALIGNMENT, int(window * (1 - overlap)) // ALIGNMENT * ALIGNMENT)
    last = (side - window) // ALIGNMENT * ALIGNMENT
    return [(first, first + window) for first in range(0, last, stride)] + [(last, side)]


@torch.no_grad()
def window_logits(model: nn.Module, images: Tensor, window: Window) -> Tensor:
    """Logits (B, K, h, w) fp32 of images (B, 3, H, W), at the head's own resolution: the mean over all windows.

    Equal to `model(images).logits` where every window over a pixel holds the whole receptive field around it; a network
    that pools over the whole image (ASPP) sees each window as an image of its own. Raises UserError where the head's
    resolution is not 1 / s of the image's for a divisor s of ALIGNMENT.
    """
    rows, columns = (
        spans(images.shape[-2], window.height, window.overlap),
        spans(images.shape[-1], window.width, window.overlap),
    )
    if len(rows) == len(columns) == 1:
        logits: Tensor = model(images).logits
        return logits.float()
    total = counts = images.new_zeros(())
    for top, bottom in rows:
        for left, right in columns:
            part = model(images[..., top:bottom, left:right]).logits.float()
            stride = head_stride(bottom - top, part.shape[-2])
            if counts.ndim == 0:
                height, width = (-(-side // stride) for side in images.shape[-2:])
                total = part.new_zeros(*part.shape[:2], height, width)
                counts = part.new_zeros(height, width)
            place = (
                slice(top // stride, top // stride + part.shape[-2]),
                slice(left // stride, left // stride + part.shape[-1]),
            )
            total[..., place[0], place[1]] += part
            counts[place] += 1
    return total / counts


def head_stride(pixels: int, cells: int) -> int:
    """Pixels a cell of the logits. Raises UserError where windows cannot be placed by it."""
    stride = round(pixels / cells)
    if ALIGNMENT % stride or -(-pixels // stride) != cells:
        raise UserError(
            f"evaluate.window: this network gives {cells} cells of logits for {pixels} pixels, and windows need a "
            f"stride that divides {ALIGNMENT}; leave evaluate.window out"
        )
    return stride


@torch.no_grad()
def check_windows(model: nn.Module, window: Window) -> None:
    """Run a model in eval mode on one empty window, before anything is written. Raises UserError as `window_logits`."""
    logits = model(torch.zeros(1, 3, window.height, window.width)).logits
    for pixels, cells in zip((window.height, window.width), logits.shape[-2:], strict=True):
        head_stride(pixels, cells)
