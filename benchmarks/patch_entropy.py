"""python -m benchmarks.patch_entropy: patch entropy, ranking and MaxSquare (Eq. 2, 13, 14) from low-resolution logits.

Ours against eager PyTorch and torch.compile; 19 classes, a grid of 4 x 4 patches, 512x256 pixels (width x height).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

import sfda_kernels
from benchmarks.common import equations
from benchmarks.common.case import DTYPES, Benchmark, Case, Function, compiled
from benchmarks.common.compare import parse, run, where
from benchmarks.common.floor import Count, Direction, count_patch_entropy
from benchmarks.common.machine import device
from benchmarks.common.row import Row

CLASSES, GRID = 19, 4


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """Stride 8 first, then 16 and 1; batch 8, then 4."""
    size = (24, 32) if quick else (128, 256) if device.type == "cpu" else (256, 512)
    dtypes = ["fp32"] if device.type == "cpu" else ["fp32", "bf16"]
    batches = [2] if quick else [4] if device.type == "cpu" else [8, 4]
    for dtype in dtypes:
        for stride in [8] if quick else [8, 16, 1]:
            for batch in batches:
                yield Case(
                    op="patch_entropy",
                    shape=f"B={batch} K={CLASSES} stride {stride} to {size[1]}x{size[0]}",
                    dtype=dtype,
                    sizes={"batch": batch, "size": size, "low": (size[0] // stride, size[1] // stride)},
                    compiled=device.type == "cuda" and batch == 8,
                )


def inputs(case: Case) -> tuple[Tensor, ...]:
    """Logits of a segmenter that is sure of some places and not of others."""
    draws = torch.Generator().manual_seed(5)
    batch, low = case.sizes["batch"], case.sizes["low"]
    logits = torch.randn(batch, CLASSES, *low, generator=draws)
    sharpness = 1 + 4 * torch.rand(batch, 1, *low, generator=draws)
    return ((sharpness * logits).to(DTYPES[case.dtype]),)


def eager(
    case: Case, precise: bool, logits: Tensor, function: Function = equations.patch_entropy
) -> tuple[Tensor, ...]:
    """The plain equations, on the inputs as they are or widened to fp32."""
    return function(logits.float() if precise else logits, GRID, case.sizes["size"])


def ours(case: Case, logits: Tensor) -> tuple[Tensor, ...]:
    """The public operator; its own choice of backend is the kernels on a GPU, the torch path on a CPU."""
    return tuple(sfda_kernels.patch_entropy(logits, GRID, case.sizes["size"]))


def providers(case: Case, device: torch.device) -> dict[str, Function]:
    """Eager fp32 first, the baseline of every ratio."""
    found: dict[str, Function] = {"eager fp32": partial(eager, case, True)}
    if device.type == "cuda":
        if case.dtype == "bf16":
            found["eager bf16"] = partial(eager, case, False)
        if case.compiled:
            found["torch.compile"] = partial(eager, case, True, function=compiled(equations.patch_entropy))
    found["ours"] = partial(ours, case)
    return found


def count(case: Case, direction: Direction) -> Count:
    itemsize = DTYPES[case.dtype].itemsize
    return count_patch_entropy(case.sizes["batch"], CLASSES, case.sizes["low"], case.sizes["size"], itemsize, direction)


def reference(case: Case) -> Function:
    """The plain equations, in the inputs' own precision."""
    return partial(eager, case, False)


def tolerance(case: Case) -> float:
    """Relative L2 error of entropies, MaxSquare and gradient."""
    return 1e-2 if case.dtype == "bf16" else 1e-4


BENCHMARK = Benchmark(
    name="patch_entropy",
    inputs=inputs,
    providers=providers,
    reference=reference,
    count=count,
    tolerance=tolerance,
    products=False,
)


def main(argv: list[str] | None = None) -> list[Row]:
    arguments = parse(__doc__, argv)
    remark = (
        where() + " Ranks must equal the float64 reference's exactly; errors are of entropies, MaxSquare, gradient."
    )
    return run(BENCHMARK, cases(device(), quick=arguments.quick), arguments, "Patch entropy", remark)


if __name__ == "__main__":
    main()
