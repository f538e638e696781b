"""The types that the operators compute in: fp32 or wider, whatever the features are and whatever autocast says."""

from __future__ import annotations

import torch
from torch import Tensor


def widen(tensor: Tensor) -> Tensor:
    """The tensor in its accumulation type: float64 stays, every other floating type becomes float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def widen_pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the wider of their accumulation types."""
    dtype = torch.promote_types(widen(first).dtype, widen(second).dtype)
    return first.to(dtype), second.to(dtype)


def full_precision(tensor: Tensor) -> torch.autocast:
    """A context without autocast: a Gram matrix rounded to bfloat16 makes the divergence meaningless."""
    return torch.autocast(tensor.device.type, enabled=False)
