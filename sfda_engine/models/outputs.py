"""What a user's own network returns, brought to logits (B, K, h, w): dictionaries, several heads, one channel,
probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from sfda_engine.errors import UserError

NAMES = ("out", "logits")
"""torchvision's and Hugging Face's names of the main output; of another dictionary, and of a sequence, the first map
is it, as the heads that only training needs come behind it in published networks."""
EPSILON = 1e-6
TOLERANCE = 1e-3
"""How far the probabilities of a pixel may be from a sum of 1: half precision has about that."""


def main_map(output: Any) -> Tensor:
    """The map (B, K, h, w) of the main head. UserError where there is none."""
    found = [output]
    if isinstance(output, Mapping):
        found = maps_of([*(output[name] for name in NAMES if name in output), *output.values()])
    elif isinstance(output, tuple | list):
        found = maps_of(output)
    first = found[0] if found else output
    return check_maps(first, "the network's output", "return (B, K, h, w) logits, or a dict with them as 'out'")


def maps_of(values: Iterable[Any]) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor) and value.ndim == 4]


def check_maps(value: object, what: str, remedy: str) -> Tensor:
    """Return `value` if it is a 4-D tensor, else raise UserError."""
    if isinstance(value, Tensor) and value.ndim == 4:
        return value
    found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise UserError(f"{what} must be a 4-D tensor, but it is {found}: {remedy}")


def classes_of(maps: Tensor) -> int:
    """Number of classes of a main map: a single channel tells two apart."""
    return max(2, maps.shape[1])


def are_probabilities(maps: Tensor) -> bool:
    """Whether a main map (B, K, h, w) has been through a softmax, or a single channel through a sigmoid."""
    if not (maps.isfinite().all() and maps.min() >= 0 and maps.max() <= 1 + TOLERANCE):
        return False
    return maps.shape[1] == 1 or bool(((maps.sum(1) - 1).abs() < TOLERANCE).all())


def as_logits(maps: Tensor, probabilities: bool) -> Tensor:
    """Logits (B, K, h, w) of a main map: log-probabilities are such; a single channel is the second of two classes."""
    if maps.shape[1] == 1:
        foreground = maps.clamp(EPSILON, 1 - EPSILON).logit() if probabilities else maps
        return torch.cat([torch.zeros_like(foreground), foreground], 1)
    return maps.clamp_min(EPSILON).log() if probabilities else maps
