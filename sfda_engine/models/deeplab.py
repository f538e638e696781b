"""DeepLabv3 with a ResNet-50 (Chen et al. 2017), torchvision's parts under torchvision's state-dict keys."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.segmentation import deeplabv3_resnet50

from sfda_engine.models.segmenter import SegmenterOutput


class DeepLabV3(nn.Module):
    """forward: (B, 3, H, W) -> logits (B, K, H/8, W/8), features (B, 2048, H/8, W/8); sizes rounded up.

    In training mode a batch of one image is refused by the batch norm of ASPP's global pooling.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        parts = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=num_classes)
        self.backbone = parts.backbone
        self.classifier = parts.classifier

    def forward(self, images: Tensor) -> SegmenterOutput:
        features = self.backbone(images)["out"]
        return SegmenterOutput(self.classifier(features), features)
