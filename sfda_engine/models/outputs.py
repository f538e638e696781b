"""What a user's own network returns, brought to logits (B, K, h, w): dictionaries, several heads, one channel,
probabilities, queries.

Shapes: B frames, K classes, Q queries, h/w of the map.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sfda_engine.errors import UserError

log = logging.getLogger(__name__)

Form = Literal["logits", "softmax", "sigmoid"]
Path = tuple[Any, ...]
"""Keys and indices that lead from what a network returns to one of its maps."""

NAMED: tuple[Path, ...] = (("out",), ("logits",))
"""torchvision's and Hugging Face's names of the main output."""
QUERIES = ("class_queries_logits", "masks_queries_logits")
"""Of Hugging Face's MaskFormer and its kin: (B, Q, K + 1), the last for none, and (B, Q, h, w)."""
EPSILON = 1e-6
TOLERANCE = 1e-3
"""How far the probabilities of a pixel may be from a sum of 1: half precision has about that."""


def heads_of(output: Any, path: Path = ()) -> dict[Path, Tensor]:
    """Every map (B, K, h, w) in what a network returns, by its path there."""
    if isinstance(output, Mapping):
        if all(name in output for name in QUERIES):
            return {path: joined_queries(*(output[name] for name in QUERIES))}
        items = list(output.items())
    elif isinstance(output, tuple | list):
        items = list(enumerate(output))
    else:
        return {path: output} if isinstance(output, Tensor) and output.ndim == 4 else {}
    return {place: head for key, value in items for place, head in heads_of(value, (*path, key)).items()}


def joined_queries(classes: Tensor, masks: Tensor) -> Tensor:
    """Logits (B, K, h, w): a class is where the masks of the queries are that stand for it (Cheng et al., 2021)."""
    shares = classes.softmax(-1)[..., :-1]
    return torch.einsum("bqk,bqhw->bkhw", shares, masks.sigmoid()).clamp_min(EPSILON).log()


def main_head(network: nn.Module, output: Any, frame: Tensor) -> Path:
    """The path of the main head in what a network in eval mode makes of a `frame`; UserError where it has no map.

    The one with torchvision's or Hugging Face's name; else the one that most parameters feed, as auxiliary heads hang
    on the way to it, wherever in a list they stand.
    """
    heads = heads_of(output)
    if not heads:
        check_maps(output, "the network's output", "return (B, K, h, w) logits, or a dict with them as 'out'")
    for path in NAMED:
        if path in heads:
            return path
    if len(heads) == 1:
        return next(iter(heads))
    with torch.enable_grad():
        heads = heads_of(network(frame))
    fed = {path: parameters_behind(head, network) for path, head in heads.items()}
    found = max(fed, key=lambda path: fed[path])
    log.warning("the network returns %d maps; that at %s is taken, which most parameters feed", len(heads), list(found))
    return found


def parameters_behind(head: Tensor, network: nn.Module) -> int:
    """How many numbers that are trained reach a head."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not head.requires_grad or not parameters:
        return 0
    gradients = torch.autograd.grad(head.sum(), parameters, retain_graph=True, allow_unused=True)
    return sum(gradient.numel() for gradient in gradients if gradient is not None)


def head_at(output: Any, path: Path) -> Tensor:
    """The map at a path of what a network returns. UserError where there is none."""
    heads = heads_of(output)
    return heads[path] if path in heads else check_maps(output, "the network's output", "return the same in every pass")


def check_maps(value: object, what: str, remedy: str) -> Tensor:
    """Return `value` if it is a 4-D tensor, else raise UserError."""
    if isinstance(value, Tensor) and value.ndim == 4:
        return value
    found = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    if isinstance(value, Tensor) and value.ndim == 3 and not value.is_floating_point():
        remedy = "these are labels already; leave out the arg-max"
    raise UserError(f"{what} must be a 4-D tensor, but it is {found}: {remedy}")


def classes_of(maps: Tensor) -> int:
    """Number of classes of a main map: a single channel tells two apart."""
    return max(2, maps.shape[1])


def form_of(maps: Tensor) -> Form:
    """Whether a main map (B, K, h, w) has been through a softmax, or each channel through a sigmoid."""
    if not (maps.isfinite().all() and maps.min() >= 0 and maps.max() <= 1 + TOLERANCE):
        return "logits"
    whole = maps.shape[1] > 1 and bool(((maps.sum(1) - 1).abs() < TOLERANCE).all())
    return "softmax" if whole else "sigmoid"


def as_logits(maps: Tensor, form: Form) -> Tensor:
    """Logits (B, K, h, w) of a main map: log-probabilities are such; a single channel is the second of two classes."""
    if form == "softmax":
        return maps.clamp_min(EPSILON).log()
    if form == "sigmoid":
        maps = maps.clamp(EPSILON, 1 - EPSILON).logit()
    return torch.cat([torch.zeros_like(maps), maps], 1) if maps.shape[1] == 1 else maps
