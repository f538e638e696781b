"""python -m benchmarks.attention: dual-attention losses (Eq. 6, 7), ours against eager PyTorch and torch.compile.

attention_kl is measured for its two branches apart and together; its gradient is the synthetic features'.
attention_l1's is the student's. C channels, N positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

import sfda_kernels
from benchmarks.common import equations
from benchmarks.common.case import DTYPES, Benchmark, Case, Function, batched, compiled
from benchmarks.common.compare import parse, run, where
from benchmarks.common.floor import Count, Direction, count_kl, count_l1
from benchmarks.common.machine import device
from benchmarks.common.row import Row
from sfda_kernels.attention.gram_kl import gram_kl
from sfda_kernels.backend import Backend

TEMPERATURE = 0.1
Size = dict[str, Any]

# C and (h, w): first what occurs on 256x128 synthetic images: DeepLabV3 at stride 8 and 16, SegNet
OCCURRING: list[Size] = [
    {"channels": 2048, "grid": (16, 32)},
    {"channels": 2048, "grid": (8, 16)},
    {"channels": 512, "grid": (4, 8)},
]
# then how it grows: DeepLabV3 at stride 8 on 512x256 or 16 on 1024x512, SegNet on 1024x512
SCALING: list[Size] = [{"channels": 2048, "grid": (32, 64)}, {"channels": 512, "grid": (16, 32)}]
ON_CPU: list[Size] = [
    {"channels": 2048, "grid": (8, 16)},
    {"channels": 512, "grid": (4, 8)},
    {"channels": 96, "grid": (32, 64)},
]
QUICK: list[Size] = [{"channels": 24, "grid": (3, 5)}]


def cases(device: torch.device, *, quick: bool) -> Iterator[Case]:
    """In order of interest, for a budget that may end early; both operators at a size before the next size."""
    if quick:
        sizes, dtypes = [size | {"batch": 2} for size in QUICK], ["fp32"]
    elif device.type == "cpu":
        sizes, dtypes = [size | {"batch": 4} for size in ON_CPU], ["fp32"]
    else:
        sizes, dtypes = [*batched(OCCURRING, (8, 4)), *batched(SCALING, (8, 4))], ["bf16", "fp32"]
    for dtype in dtypes:
        for size in sizes:
            height, width = size["grid"]
            shape = f"B={size['batch']} C={size['channels']} N={height * width}"
            for op in NAIVE:
                # a minute of compiling for each: where a target names it
                compiles = device.type == "cuda" and size["batch"] == 8 and min(size["channels"], height * width) >= 512
                compiles = compiles and op != "attention_kl spatial"
                yield Case(op=op, shape=shape, dtype=dtype, sizes=size, compiled=compiles)


def inputs(case: Case) -> tuple[Tensor, ...]:
    """Two feature maps as an encoder's ReLU leaves them: low rank, so that maps have structure, plus noise."""
    draws = torch.Generator().manual_seed(3)
    batch, channels, (height, width) = case.sizes["batch"], case.sizes["channels"], case.sizes["grid"]

    def features() -> Tensor:
        left = torch.randn(batch, channels, 12, generator=draws)
        right = torch.randn(batch, 12, height * width, generator=draws)
        noise = torch.randn(batch, channels, height * width, generator=draws)
        return (left @ right / 12**0.5 + noise).relu().view(batch, channels, height, width)

    return tuple(features().to(DTYPES[case.dtype]) for _ in range(2))


def spatial_kl(synthetic: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """The spatial branch of Eq. 7, plainly."""
    return (equations.map_kl(equations.tokens_of(synthetic)[0], equations.tokens_of(target)[0]),)


def channel_kl(synthetic: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """The channel branch of Eq. 7, plainly."""
    return (equations.map_kl(equations.tokens_of(synthetic)[1], equations.tokens_of(target)[1]),)


def l1_to_student(student: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
    """Eq. 6 with the student first, where the gradient goes."""
    return (equations.attention_l1(teacher, student),)


NAIVE: dict[str, Function] = {
    "attention_kl": equations.attention_kl,
    "attention_kl spatial": spatial_kl,
    "attention_kl channel": channel_kl,
    "attention_l1": l1_to_student,
}


def in_fp32(function: Function, *features: Tensor) -> tuple[Tensor, ...]:
    """`function` on inputs widened to fp32: the only eager form that is exact."""
    return function(*(tensor.float() for tensor in features))


def providers(case: Case, device: torch.device) -> dict[str, Function]:
    """Eager fp32 first, the baseline of every ratio; on a GPU torch.compile, and eager bf16 where inputs are."""
    function = NAIVE[case.op]
    found: dict[str, Function] = {"eager fp32": partial(in_fp32, function)}
    if device.type == "cuda":
        if case.dtype == "bf16":
            found["eager bf16"] = function
        if case.compiled:
            found["torch.compile"] = partial(in_fp32, compiled(function))
    return found | {"ours": ours(case.op, device)}


def ours(op: str, device: torch.device) -> Function:
    """Our operator, or the branch of it that `op` names."""
    backend: Backend = "torch" if device.type == "cpu" else "triton"
    if op == "attention_l1":
        return partial(our_l1, backend)
    if op == "attention_kl":
        return partial(our_kl, backend)
    return partial(our_branch, int(op.endswith("channel")), backend)


def our_kl(backend: Backend, synthetic: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    return sfda_kernels.attention_kl(synthetic, target, backend=backend)


def our_l1(backend: Backend, student: Tensor, teacher: Tensor) -> tuple[Tensor, ...]:
    return (sfda_kernels.attention_l1(teacher, student, backend=backend),)


def our_branch(branch: int, backend: Backend, synthetic: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """One branch of `attention_kl`, as its own code runs it: the public function has both."""
    p, q = (equations.tokens_of(features)[branch] for features in (synthetic, target))
    return (gram_kl(p, q, TEMPERATURE, True, backend == "triton"),)


def count(case: Case, direction: Direction) -> Count:
    """Counts of the branches that a case runs."""
    batch, channels, (height, width) = case.sizes["batch"], case.sizes["channels"], case.sizes["grid"]
    counting = count_l1 if case.op == "attention_l1" else count_kl
    positions, itemsize = height * width, DTYPES[case.dtype].itemsize
    spatial = counting(batch, positions, channels, itemsize, direction)
    channel = counting(batch, channels, positions, itemsize, direction)
    if case.op.endswith(("spatial", "channel")):
        return spatial if case.op.endswith("spatial") else channel
    both = spatial + channel
    return Count(both.flop, spatial.bytes, both.exps)  # both branches read the same features


def reference(case: Case) -> Function:
    """The plain equations."""
    return NAIVE[case.op]


def tolerance(case: Case) -> float:
    """Relative L2 error of outputs and gradient. bf16: one rounding of the result and of a probability, not of the
    logits; L1: a sign that flips costs 2 / sqrt(elements)."""
    if case.dtype == "bf16":
        return 5e-2 if case.op == "attention_l1" else 1e-2
    return 5e-3 if case.op == "attention_l1" else 1e-4


BENCHMARK = Benchmark(
    name="attention",
    inputs=inputs,
    providers=providers,
    reference=reference,
    count=count,
    tolerance=tolerance,
    products=True,
)


def main(argv: list[str] | None = None) -> list[Row]:
    arguments = parse(__doc__, argv)
    remark = where() + " The gradient goes to the first input: synthetic, student. Errors against float64."
    return run(BENCHMARK, cases(device(), quick=arguments.quick), arguments, "Dual attention", remark)


if __name__ == "__main__":
    main()
