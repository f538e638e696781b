"""The patch discriminator D of Eq. 15, conditioned on the patch's place in the grid."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Logit that a patch of the student's output is easy (low entropy), given its position in the G x G grid.

    forward: patches (M, K, h, w) of any size, positions (M,) int64 in [0, num_positions) -> logits (M,).
    The position enters by projection (Miyato and Koyama 2018): an inner product with its embedding.
    """

    def __init__(self, num_classes: int, num_positions: int, embedding_dim: int = 256) -> None:
        super().__init__()
        # Padding 2 lets patches down to 1 x 1 through the strided 4 x 4 kernels.
        self.conv1 = nn.Conv2d(num_classes, 64, 4, stride=2, padding=2)
        self.conv2 = nn.Conv2d(64, 128, 4, stride=2, padding=2)
        self.conv3 = nn.Conv2d(128, embedding_dim, 3, padding=1)
        self.linear = nn.Linear(embedding_dim, 1)
        self.embedding = nn.Embedding(num_positions, embedding_dim)

    def forward(self, patches: Tensor, positions: Tensor) -> Tensor:
        x = patches
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.leaky_relu(conv(x), 0.2)
        x = x.mean(dim=(2, 3))  # (M, embedding_dim)
        projection = (x * self.embedding(positions)).sum(1) / x.shape[1] ** 0.5
        return self.linear(x).squeeze(1) + projection
