"""What a run will cost: FLOP of a step, counted, over FLOP a second of a machine, measured where possible.

Left out: loading of frames, discriminators of AdaptSegNet, BN warm start, labelling of frames, evaluation.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common.floor import DEVICES, count_kl, count_l1
from benchmarks.common.machine import device, device_name
from benchmarks.common.row import Row, read_rows
from sfda_engine.config.presets import PRESETS
from sfda_engine.config.schema import Config, MethodConfig
from sfda_engine.models import build_segmenter
from sfda_engine.models.discriminator import PatchDiscriminator
from sfda_engine.models.generator import LATENT_DIM, Generator
from sfda_engine.pipelines.objective import objective_of

RESULTS = Path(__file__).parents[1] / "results"
UTILIZATION = 0.10
"""Assumed share of an H100's rated TF32 peak (convolutions use TF32 unless told otherwise), where nothing is measured:
of the order that training a ResNet in TF32 reaches, memory-bound layers included."""
COUNTED = (64, 64)
"""Size at which FLOP are counted; all networks here are convolutional, so they grow with the area."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Rate:
    """FLOP a second of a machine, and where that figure is from."""

    flop_per_second: float
    basis: str


@cache
def frame_flop(arch: str, classes: int, size: Size) -> tuple[float, float]:
    """FLOP (a multiplication and an addition are two) of one frame: forward, and forward with backward."""
    network = build_segmenter(arch, classes).eval()
    images = torch.zeros(1, 3, *COUNTED[::-1])
    area = size[0] * size[1] / (COUNTED[0] * COUNTED[1])
    with FlopCounterMode(display=False) as counter:
        logits = network(images).logits
        forward = counter.get_total_flops()
        logits.sum().backward()
    return area * forward, area * counter.get_total_flops()


@cache
def generator_flop(size: Size) -> tuple[float, float]:
    """The same of one synthetic image of the generator."""
    generator = Generator(size[::-1], latent_dim=LATENT_DIM).eval()
    with FlopCounterMode(display=False) as counter:
        images = generator(torch.zeros(1, LATENT_DIM))
        forward = counter.get_total_flops()
        images.sum().backward()
    return forward, counter.get_total_flops()


@cache
def discriminator_flop(classes: int, grid: int, size: Size) -> tuple[float, float]:
    """The same of the patch discriminator on the patches of one frame, which it sees at half the frame's size."""
    discriminator = PatchDiscriminator(classes, grid**2)
    patches = torch.zeros(grid**2, classes, size[1] // 2 // grid, size[0] // 2 // grid)
    with FlopCounterMode(display=False) as counter:
        logits = discriminator(patches, torch.arange(grid**2))
        forward = counter.get_total_flops()
        logits.sum().backward()
    return forward, counter.get_total_flops()


@cache
def attention_flop(arch: str, classes: int, synthetic: Size, method: MethodConfig) -> float:
    """The least that the attention terms of one synthetic image need in a step, by `common.floor`, two branches.

    L_DAD^ss for generator and student, L_DAD^st for the generator.
    """
    with torch.no_grad():
        _, depth, height, width = build_segmenter(arch, classes).eval()(torch.zeros(1, 3, *COUNTED)).features.shape
    tokens = height * width * synthetic[0] * synthetic[1] // (COUNTED[0] * COUNTED[1])
    flop = 0.0
    for one, other in ((tokens, depth), (depth, tokens)):
        if method.beta > 0:
            flop += (1 + method.generator_steps) * count_l1(1, one, other, 4, "both").flop
        if method.tau > 0:
            flop += method.generator_steps * count_kl(1, one, other, 4, "both").flop
    return flop


def adaptation_flop(arch: str, classes: int, size: Size, batch: int, method: MethodConfig) -> float:
    """FLOP of one step of the engine: the passes of `steps.adaptation_step`."""
    synthetic, objective = method.synthetic_size or (size[0] // 2, size[1] // 2), objective_of(method)
    forward, training = frame_flop(arch, classes, size)
    flop = training if objective.uses_target_loss else forward
    flop += training if method.pseudo_label_weight else 0.0
    if objective.uses_ipsm:
        judging, judging_training = discriminator_flop(classes, method.patch_grid, size)
        flop += judging_training + 2 * judging  # its own step; the student's passes it, forward and back to the input
    if objective.uses_transfer:
        small, small_training = frame_flop(arch, classes, synthetic)
        making, making_training = generator_flop(synthetic)
        # generator: source and frozen student, forward and back to their input; student: source forward, own training
        flop += method.generator_steps * (2 * 2 * small + making_training) + making + small + small_training
        flop += attention_flop(arch, classes, synthetic, method)
    return batch * flop


def run_flop(method: str, arch: str, classes: int, config: Config) -> float:
    """FLOP of one step of a run: the source-driven methods train on a target and a source batch."""
    size, batch = config.target.size, config.target.batch_size
    assert size is not None  # every domain states it
    if method == "source_only":
        return 0.0
    if method == "sfda":
        return adaptation_flop(arch, classes, size, batch, config.method)
    return 2 * batch * frame_flop(arch, classes, size)[1]


def training_flop(arch: str, classes: int, size: Size, batch: int) -> float:
    """FLOP of one step of source training."""
    return batch * frame_flop(arch, classes, size)[1]


def benchmarked(arch: str, on: str, dtype: str) -> Rate | None:
    """The rate of the engine's step as `benchmarks.adapt_step` measured it on a device whose name holds `on`."""
    for path in sorted(RESULTS.glob(f"adapt_step_{arch}_*.csv")):
        for row in read_rows(path):
            if row.provider == "engine" and row.p50_ms and row.dtype == dtype and on in row.device:
                size, batch = _shape_of(row)
                flop = adaptation_flop(arch, 19, size, batch, replace(MethodConfig(), **PRESETS["paper"]))
                basis = f"measured: adapt_step, {row.shape}, {row.p50_ms:.0f} ms a step, {row.device}"
                return Rate(1e3 * flop / row.p50_ms, basis)
    return None


def h100_rate(arch: str, dtype: str) -> Rate:
    """Of one H100."""
    peak = DEVICES["H100"].tf32
    assumed = f"ESTIMATE: {UTILIZATION:.0%} of the {peak / 1e12:.0f} TFLOP/s (TF32) that an H100 is rated at is assumed"
    return benchmarked(arch, "H100", dtype) or Rate(UTILIZATION * peak, assumed)


def own_rate(arch: str, dtype: str) -> Rate:
    """Of this machine."""
    return benchmarked(arch, device_name(), dtype) or _timed_pass(arch)


@cache
def _timed_pass(arch: str) -> Rate:
    size, batch = ((512, 256), 8) if device().type == "cuda" else ((128, 64), 1)
    network = build_segmenter(arch, 19).eval().to(device())
    images = torch.zeros(batch, 3, *size[::-1], device=device())
    _train_pass(network, images)
    since = time.perf_counter()
    _train_pass(network, images)
    seconds = time.perf_counter() - since
    rate = batch * frame_flop(arch, 19, size)[1] / seconds
    what = f"{batch} x {size[0]}x{size[1]}"
    return Rate(rate, f"ESTIMATE: from one forward and backward pass of {arch} ({what}), timed here just now")


def _train_pass(network: nn.Module, images: torch.Tensor) -> None:
    network(images).logits.sum().backward()
    if images.is_cuda:
        torch.cuda.synchronize()


def _shape_of(row: Row) -> tuple[Size, int]:
    """((W, H), B) of "deeplabv3_resnet50 256x128 B=4"."""
    _, size, batch = row.shape.split()
    width, height = size.split("x")
    return (int(width), int(height)), int(batch.removeprefix("B="))
