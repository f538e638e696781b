"""Lite R-ASPP with a MobileNetV3-Large (Howard et al. 2019), torchvision's parts under torchvision's keys."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from sfda_engine.models.segmenter import SegmenterOutput


class LRASPP(nn.Module):
    """forward: (B, 3, H, W) -> logits (B, K, H/8, W/8), features (B, 960, H/16, W/16); sizes rounded up."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        parts = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=num_classes)
        self.backbone = parts.backbone
        self.classifier = parts.classifier

    def forward(self, images: Tensor) -> SegmenterOutput:
        features = self.backbone(images)
        return SegmenterOutput(self.classifier(features), features["high"])
