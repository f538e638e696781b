"""Launches of the patch entropy at the sizes of the paper: 19 classes, target 512x256, grid 4."""

from __future__ import annotations

from functools import partial

import torch

from sfda_kernels.patches import launch


def forward(dtype: torch.dtype, *shape: int) -> None:
    launch.forward(torch.empty(shape, dtype=dtype, device="meta"), 4, (256, 512))


def backward(dtype: torch.dtype, *shape: int, entropy: bool) -> None:
    logits = torch.empty(shape, dtype=dtype, device="meta")
    grad_entropy = torch.empty(shape[0], 16, device="meta") if entropy else None
    launch.backward(logits, grad_entropy, torch.empty((), device="meta"), 4, (256, 512))


STRIDE_8, FULL, MANY = (8, 19, 32, 64), (8, 19, 256, 512), (8, 150, 32, 64)
CASES = {
    "patch forward, stride 8, fp32": partial(forward, torch.float32, *STRIDE_8),
    "patch forward, full size, bf16": partial(forward, torch.bfloat16, *FULL),
    "patch backward, stride 8, fp32": partial(backward, torch.float32, *STRIDE_8, entropy=False),
    "patch backward with entropy, stride 8, fp32": partial(backward, torch.float32, *STRIDE_8, entropy=True),
    "patch backward, full size, bf16": partial(backward, torch.bfloat16, *FULL, entropy=True),
    "patch backward, 150 classes, fp32": partial(backward, torch.float32, *MANY, entropy=True),
}
