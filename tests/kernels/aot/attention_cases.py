"""Launches of the attention operators: every path, both layouts of the tokens, tiles of either size."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from sfda_kernels.attention import launch_attended_l1, launch_gram_kl


def features(count: int, depth: int, layout: str, dtype: torch.dtype) -> Tensor:
    """Tokens (1, count, depth) of unit stride along the features ("channel") or the tokens ("spatial")."""
    shape = (1, count, depth) if layout == "channel" else (1, depth, count)
    x = torch.empty(shape, dtype=dtype, device="meta")
    return x if layout == "channel" else x.mT


def gram_kl(
    path: str, count: int, depth: int, layout: str, dtype: torch.dtype, cosine: bool = True, target: bool = False
) -> None:
    """Forward, and backward for the gradient of the first tokens or of the `target`."""
    x = features(count, depth, layout, dtype)
    _, *saved = launch_gram_kl.forward(x, x, 0.1, cosine, path)
    launch_gram_kl.backward(torch.empty(1, device="meta"), x, x, *saved, 0.1, path, target)


def attended_l1(count: int, depth: int, layout: str, dtype: torch.dtype) -> None:
    x = features(count, depth, layout, dtype)
    _, sign, rows, scales, healthy, attention, _ = launch_attended_l1.forward(x, x, 0.1, True, True, False)
    side = (attention, rows[0], rows[1], scales[0], healthy[0])
    launch_attended_l1.backward(torch.empty(1, device="meta"), x, sign, *side, 0.1)


CASES = {
    "KL by tiles, channel, T 512": partial(gram_kl, "tiles", 512, 128, "channel", torch.bfloat16),
    "KL by tiles, spatial, T 128": partial(gram_kl, "tiles", 128, 512, "spatial", torch.bfloat16),
    "KL by tiles, channel, T 2048": partial(gram_kl, "tiles", 2048, 512, "channel", torch.bfloat16),
    "KL by tiles, spatial, T 2048": partial(gram_kl, "tiles", 2048, 96, "spatial", torch.bfloat16),
    "KL on maps, cosine": partial(gram_kl, "hybrid", 512, 2048, "spatial", torch.bfloat16),
    "KL on maps, cosine, target": partial(gram_kl, "hybrid", 512, 2048, "spatial", torch.bfloat16, target=True),
    "KL on maps, dot, odd size": partial(gram_kl, "hybrid", 117, 33, "channel", torch.float32, cosine=False),
    "attended L1": partial(attended_l1, 512, 2048, "spatial", torch.bfloat16),
}
