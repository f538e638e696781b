"""StreetNet: a segmenter under 0.75 M parameters for CPU runs, tests and the bundled example."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfda_engine.models.segmenter import SegmenterOutput, upsample

WIDTH = 24


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size (but for the stride), then batch norm."""
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """`conv_bn`, then ReLU."""
    return conv_bn(inputs, outputs, kernel, stride, dilation).append(nn.ReLU())


class Block(nn.Module):
    """Residual block of two 3x3 convolutions; the skip is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = conv_bn_relu(inputs, outputs, stride=stride, dilation=dilation)
        self.conv2 = conv_bn(outputs, outputs, dilation=dilation)
        same_shape = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same_shape else conv_bn(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + self.skip(x))


class StreetNet(nn.Module):
    """Residual encoder (stride 8, dilated) with one skip connection from stride 4.

    forward: (B, 3, H, W) -> logits (B, K, H/4, W/4), features (B, 96, H/8, W/8); sizes rounded up.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        w = WIDTH
        self.low = nn.Sequential(conv_bn_relu(3, w, stride=2), Block(w, w), Block(w, 2 * w, stride=2))
        self.high = nn.Sequential(
            Block(2 * w, 2 * w),
            Block(2 * w, 4 * w, stride=2),
            Block(4 * w, 4 * w, dilation=2),
            Block(4 * w, 4 * w, dilation=4),
        )
        self.reduce_high = conv_bn_relu(4 * w, 2 * w, kernel=1)
        self.reduce_low = conv_bn_relu(2 * w, w, kernel=1)
        self.fuse = conv_bn_relu(3 * w, 2 * w)
        self.classifier = nn.Conv2d(2 * w, num_classes, 1)

    def forward(self, images: Tensor) -> SegmenterOutput:
        low = self.low(images)
        features = self.high(low)
        high = upsample(self.reduce_high(features), (low.shape[-2], low.shape[-1]))
        logits = self.classifier(self.fuse(torch.cat([high, self.reduce_low(low)], dim=1)))
        return SegmenterOutput(logits, features)
