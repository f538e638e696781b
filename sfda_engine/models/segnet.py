"""SegNet (Badrinarayanan et al. 2017): VGG16-BN encoder, decoder that unpools by the encoder's indices."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from sfda_engine.models.segmenter import SegmenterOutput

# Output channels of the decoder's convolutions, deepest stage first: the encoder's mirror image.
DECODER_STAGES = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64,))


def decoder_stage(inputs: int, widths: tuple[int, ...]) -> nn.Sequential:
    """3x3 convolution, batch norm and ReLU for each output width."""
    stage = nn.Sequential()
    for before, after in zip((inputs, *widths), widths, strict=False):
        stage.append(nn.Conv2d(before, after, 3, padding=1)).append(nn.BatchNorm2d(after)).append(nn.ReLU())
    return stage


class SegNet(nn.Module):
    """forward: (B, 3, H, W), H, W >= 32 -> logits (B, K, H, W), features (B, 512, H/32, W/32) rounded down.

    The keys `encoder.N.*` are torchvision's `features.N.*` of vgg16_bn.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.encoder = make_layers(cfgs["D"], batch_norm=True)
        for layer in self.encoder:
            if isinstance(layer, nn.MaxPool2d):
                layer.return_indices = True
        inputs = (512, *(widths[-1] for widths in DECODER_STAGES[:-1]))
        self.decoder = nn.ModuleList(
            decoder_stage(before, widths) for before, widths in zip(inputs, DECODER_STAGES, strict=True)
        )
        self.classifier = nn.Conv2d(64, num_classes, 3, padding=1)

    def forward(self, images: Tensor) -> SegmenterOutput:
        x, pools = images, []
        for layer in self.encoder:
            if isinstance(layer, nn.MaxPool2d):
                size = x.shape[-2:]
                x, indices = layer(x)
                pools.append((indices, size))
            else:
                x = layer(x)
        features = x
        for stage, (indices, size) in zip(self.decoder, reversed(pools), strict=True):
            x = stage(F.max_unpool2d(x, indices, (2, 2), output_size=size))
        return SegmenterOutput(self.classifier(x), features)
