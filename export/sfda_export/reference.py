"""The truth for an exported file: the engine's own path as `evaluate` runs it. DeployGraph has no part in it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from sfda_engine.data.images import to_float_tensor
from sfda_engine.errors import UserError
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.segmenter import upsample
from sfda_engine.models.weights import WeightsInfo

Frames = NDArray[np.uint8]
"""(N, H, W, 3) RGB."""
Reference = Callable[[Frames], NDArray[np.floating]]
"""Frames -> logits (N, K, H, W) at the frames' size."""


def engine_logits(model: nn.Module, info: WeightsInfo, dtype: torch.dtype) -> Reference:
    """The engine's logits of a segmenter, computed in `dtype` by a copy in eval mode.

    torch.float32 is what `evaluate` computes, torch.float64 the truth that both float32 results are compared with.
    The function raises UserError where a user's network cannot run in `dtype`.
    """
    network = copy.deepcopy(model).to(dtype).eval()
    preprocess = Preprocess(info.normalization, info.exposure).to(dtype)

    @torch.no_grad()
    def logits(frames: Frames) -> NDArray[np.floating]:
        images = torch.stack([to_float_tensor(Image.fromarray(frame)) for frame in frames]).to(dtype)
        try:
            head = network(preprocess(images)).logits
        except RuntimeError as error:
            raise UserError(
                f"the network cannot run in {dtype}, which the exported file is compared with ({error}): "
                "let its forward make tensors in the type of its input"
            ) from error
        return upsample(head, (images.shape[2], images.shape[3])).numpy()

    return logits
