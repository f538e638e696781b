"""SegNet's unpooling for deployment: the four phases of each 2x2 window instead of pooled indices.

Pooled indices are no operator of TensorRT ("does not support the indices output in MaxPool") and need a scatter.
Here a window's maximum is found again by comparing its four pixels with it, in order, so that of equal pixels the
first one wins, as in torch: after a ReLU windows of four zeros are common. Same values, same state dict.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfda_engine.models.segmenter import SegmenterOutput
from sfda_engine.models.segnet import SegNet

MULTIPLE = 32
"""Five poolings by two: heights and widths must be multiples of this."""


class Winners(NamedTuple):
    """Which pixel of each 2x2 window is its maximum: bool masks (N, C, h, w), exactly one of the four true."""

    top_left: Tensor
    top_right: Tensor
    bottom_left: Tensor
    bottom_right: Tensor


def pool(x: Tensor) -> tuple[Tensor, Winners]:
    """Maximum of each 2x2 window of (N, C, H, W), H and W even, and where it was; (N, C, H/2, W/2) each."""
    a, b, c = x[:, :, 0::2, 0::2], x[:, :, 0::2, 1::2], x[:, :, 1::2, 0::2]
    maximum = F.max_pool2d(x, 2)
    is_a = a == maximum
    is_b = (b == maximum) & ~is_a
    is_c = (c == maximum) & ~(is_a | is_b)
    return maximum, Winners(is_a, is_b, is_c, ~(is_a | is_b | is_c))


def unpool(x: Tensor, winners: Winners) -> Tensor:
    """Put each value of (N, C, h, w) back where its maximum was, zeros around it: (N, C, 2h, 2w)."""
    phases = [torch.where(mask, x, 0.0) for mask in winners]  # scalar 0.0 keeps the type of x
    return F.pixel_shuffle(torch.stack(phases, dim=2).flatten(1, 2), 2)


class PhaseSegNet(nn.Module):
    """A SegNet's own layers under the same names, H and W multiples of 32: equal to `SegNet.forward` there."""

    def __init__(self, segnet: SegNet) -> None:
        super().__init__()
        self.encoder, self.decoder, self.classifier = segnet.encoder, segnet.decoder, segnet.classifier

    def forward(self, images: Tensor) -> SegmenterOutput:
        x, pools = images, []
        for layer in self.encoder:
            if isinstance(layer, nn.MaxPool2d):
                x, winners = pool(x)
                pools.append(winners)
            else:
                x = layer(x)
        features = x
        for stage, winners in zip(self.decoder, reversed(pools), strict=True):
            x = stage(unpool(x, winners))
        return SegmenterOutput(self.classifier(x), features)


def deployable(segmenter: nn.Module) -> nn.Module:
    """The segmenter as it is exported: SegNet in phase form around the same layers, any other as it is."""
    return PhaseSegNet(segmenter) if isinstance(segmenter, SegNet) else segmenter


def size_multiple(segmenter: nn.Module) -> int:
    """What heights and widths must be multiples of in the exported form."""
    return MULTIPLE if isinstance(segmenter, (SegNet, PhaseSegNet)) else 1
