"""From RGB frames in [0, 1] to a network's normalized input, the same in training and deployment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sfda_engine.errors import UserError

Exposure = Literal["none", "gamma"]

DARKEST = 1.0 / 255.0
NEWTON_STEPS = 8


@dataclass(frozen=True)
class Normalization:
    """How a network wants its input: (image * value_range - mean) / std, in its own channel order."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Per channel, in the network's channel order and in units of `value_range`; ImageNet's by default."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """As `mean`; above 0."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels the network was trained with."""
    value_range: float = 1.0
    """Largest pixel value before mean and std: 1.0 (inputs in 0..1) or 255.0 (inputs in 0..255)."""

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3:
            raise UserError("model.normalization: mean and std need three values each")
        if min(self.std) <= 0 or self.value_range <= 0:
            raise UserError("model.normalization: std and value_range must be above 0")
        if self.channel_order not in ("rgb", "bgr"):
            raise UserError(f"model.normalization: channel_order is '{self.channel_order}', not rgb or bgr")


class Preprocess(nn.Module):
    """forward: float32 (B, 3, H, W) RGB in [0, 1] -> normalized, in the network's channel order."""

    mean: Tensor
    std: Tensor

    def __init__(self, normalization: Normalization, exposure: Exposure = "none") -> None:
        super().__init__()
        if exposure not in ("none", "gamma"):
            raise UserError(f"model.exposure is '{exposure}': use none or gamma")
        self.exposure = exposure
        self.channel_order = normalization.channel_order
        scale = 1.0 / normalization.value_range
        mean = torch.tensor(normalization.mean).mul(scale).view(1, 3, 1, 1)
        std = torch.tensor(normalization.std).mul(scale).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.normalize(self.expose(images))

    def expose(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) RGB in [0, 1] with their exposure corrected where that is asked for."""
        return gamma_exposure(images) if self.exposure == "gamma" else images

    def normalize(self, images: Tensor) -> Tensor:
        """Exposed images (B, 3, H, W) RGB in [0, 1] -> what the network expects."""
        if self.channel_order == "bgr":
            images = images.flip(1)
        return (images - self.mean) / self.std


def gamma_exposure(images: Tensor, mean_luminance: float = 0.45) -> Tensor:
    """Bring each frame to one mean luminance by a gamma of its own: images ** g with mean(Y ** g) given.

    images: float32 (B, 3, H, W) RGB in [0, 1]; Y is Rec. 601 luma clamped to [1/255, 1]; g stays in [0.2, 5].
    f(g) = log mean(Y ** g) - log(mean_luminance) is convex and decreasing, so Newton's steps from g = 1
    converge without a line search. A fixed count of steps keeps the function exportable.
    """
    red, green, blue = images.unbind(1)
    log_luma = (0.299 * red + 0.587 * green + 0.114 * blue).clamp(DARKEST, 1.0).log()  # (B, H, W)
    log_target = torch.full_like(log_luma[:, 0, 0], mean_luminance).log()
    gamma = torch.ones_like(log_target)
    for _ in range(NEWTON_STEPS):
        powers = torch.exp(gamma[:, None, None] * log_luma)
        mean = _frame_mean(powers)
        slope = _frame_mean(powers * log_luma) / mean
        # An all-white frame has slope 0; the bound sends its gamma to the clamp, where 1 ** g is 1.
        gamma = (gamma - (mean.log() - log_target) / slope.clamp(max=-1e-6)).clamp(0.2, 5.0)
    return images.clamp(DARKEST, 1.0) ** gamma[:, None, None, None]


def _frame_mean(values: Tensor) -> Tensor:
    """(B, H, W) -> (B,). By rows: onnxruntime's float32 mean of 2048x1024 values at once is off by 5e-5, so by 1e-7."""
    return values.mean(2).mean(1)
