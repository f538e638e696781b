"""What a benchmark of the adaptation step runs on: networks, one batch, draws, and the step of each provider."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal
from unittest.mock import patch

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from torch import Tensor, nn

import sfda_kernels
from benchmarks.common.machine import device
from benchmarks.common.step.naive import make_optimizers, naive_step
from benchmarks.common.step.shared_forward import shared_forward_step
from sfda_engine.config.presets import PRESETS
from sfda_engine.config.schema import MethodConfig
from sfda_engine.method.optimizers import BN_MOMENTUM, prepare_networks
from sfda_engine.method.steps import Networks, Updates, adaptation_step
from sfda_engine.models import build_segmenter
from sfda_engine.models.discriminator import PatchDiscriminator
from sfda_engine.models.generator import LATENT_DIM, Generator
from sfda_engine.models.norms import reestimate_statistics
from sfda_engine.pipelines.objective import objective_of

Provider = Literal["naive", "engine", "engine, shared forward"]
Precision = Literal["no", "bf16"]
Step = Callable[[], dict[str, Tensor]]
CLASSES = 19


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to run a step. `size` is [width, height] of the target frames; `synthetic` None = half of it."""

    provider: Provider
    arch: str = "streetnet"
    size: tuple[int, int] = (256, 128)
    synthetic: tuple[int, int] | None = None
    batch: int = 4
    backend: Literal["auto", "torch", "triton"] = "auto"
    precision: Precision = "no"
    compiled: bool = False

    @property
    def name(self) -> str:
        """What tells this row from others of the same case."""
        if self.provider == "naive":
            return "naive"
        kernels = "" if self.backend == "auto" else f", backend {self.backend}"
        return self.provider + kernels + (", compiled" if self.compiled else "")

    @property
    def label(self) -> str:
        """The name with the precision."""
        return f"{self.name} {PRECISIONS[self.precision]}"


PRECISIONS = {"no": "fp32", "bf16": "bf16"}


class Frames:
    """Stands for the target folder that the trainer asks for its length; batches are made here instead."""

    def __len__(self) -> int:
        return 1000

    def name(self, index: int) -> str:
        return f"frame {index}"

    def image(self, index: int) -> Image.Image:
        raise NotImplementedError("a benchmark makes its own batches")


@dataclass
class Prepared:
    """A step ready to run, and what it runs on. `step` draws new latents every time, from the same sequence."""

    step: Step
    networks: Networks
    optimizers: Any
    """With student, generator and discriminator: `naive.Optimizers`, or the engine's updates."""
    updates: Updates | None = None
    """The engine's; exchanged for profiled ones while a profiler looks."""


def make_networks(setting: Setting, method: MethodConfig) -> tuple[Networks, Tensor]:
    """Random weights with statistics that fit them, a student that has left the source, frames (B, 3, H, W)."""
    torch.manual_seed(0)
    width, height = setting.size
    synthetic = setting.synthetic or (width // 2, height // 2)
    # smooth, unlike noise: rankings are then not a matter of rounding
    coarse = torch.randn(setting.batch, 3, height // 8, width // 8)
    frames = nn.functional.interpolate(coarse, (height, width), mode="bicubic") + 0.1 * torch.randn(1, 3, height, width)
    source = build_segmenter(setting.arch, CLASSES).eval()
    reestimate_statistics(source, [frames, frames.flip(3), frames.flip(2)])
    student = copy.deepcopy(source)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * parameter.abs().mean() * torch.randn_like(parameter))
    networks = Networks(
        source=source.requires_grad_(False),
        student=student.eval(),
        generator=Generator((synthetic[1], synthetic[0]), latent_dim=LATENT_DIM),
        discriminator=PatchDiscriminator(CLASSES, method.patch_grid**2),
    )
    for network in (networks.source, networks.student, networks.generator, networks.discriminator):
        network.to(device())
    return networks, frames.to(device())


def prepare(setting: Setting) -> Prepared:
    """Build a setting; two settings of one case start from the same networks, frames and draws."""
    method = replace(MethodConfig(), **PRESETS["paper"])
    networks, frames = make_networks(setting, method)
    draws = torch.Generator().manual_seed(1)

    def latents() -> list[Tensor]:
        return [torch.randn(setting.batch, LATENT_DIM, generator=draws).to(device()) for _ in range(2)]

    if setting.provider == "naive":
        for layer in networks.student.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.momentum = BN_MOMENTUM
        optimizers, objective = make_optimizers(networks, method), objective_of(method)
        autocast = partial(torch.autocast, device().type, torch.bfloat16, enabled=setting.precision == "bf16")
        return Prepared(
            lambda: naive_step(networks, optimizers, frames, latents(), objective, autocast), networks, optimizers
        )
    return _prepare_engine(setting, method, networks, frames, latents)


def _prepare_engine(
    setting: Setting, method: MethodConfig, networks: Networks, frames: Tensor, latents: Callable[[], list[Tensor]]
) -> Prepared:
    """The trainer's own networks, optimizers and memory format."""
    accelerator, objective = make_accelerator(setting.precision), objective_of(method)
    networks, updates, _ = prepare_networks(
        networks,
        objective,
        accelerator,
        lr=method.lr,
        generator_lr=method.generator_lr,
        discriminator_lr=method.discriminator_lr,
        clip_grad_norm=method.clip_grad_norm,
        steps=10**6,
    )
    if setting.compiled:
        # the source stays eager: L_BNS reads its layers by hooks, which a compiled graph leaves out
        torch._dynamo.config.recompile_limit = 64
        for network in (networks.student, networks.generator, networks.discriminator):
            network.compile(dynamic=False)
    frames = frames.contiguous(memory_format=torch.channels_last)
    run = shared_forward_step if setting.provider == "engine, shared forward" else adaptation_step
    prepared = Prepared(lambda: {}, networks, updates, updates)

    def step() -> dict[str, Tensor]:
        assert prepared.updates is not None
        with forced_backend(setting.backend):
            return run(prepared.networks, prepared.updates, frames, latents(), objective, accelerator.autocast)

    prepared.step = step
    return prepared


def make_accelerator(precision: Precision) -> Accelerator:
    """As the engine's own, for one process; a second precision in one process needs the first one's state gone."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return Accelerator(mixed_precision=precision)


def follow(naive: Prepared, engine: Prepared) -> None:
    """Put the naive step's weights, statistics and optimizers where the engine's stand."""
    for role in ("student", "generator", "discriminator"):
        getattr(naive.networks, role).load_state_dict(getattr(engine.networks, role).state_dict())
        optimizer = getattr(engine.optimizers, role).optimizer.optimizer.state_dict()  # Update, Accelerate, torch
        getattr(naive.optimizers, role).load_state_dict(copy.deepcopy(optimizer))


@contextmanager
def forced_backend(backend: str) -> Iterator[None]:
    """Let every operator that the engine calls run on one backend."""
    if backend == "auto":
        yield
        return
    with ExitStack() as stack:
        for name in ("attention_kl", "attention_l1", "patch_entropy"):
            stack.enter_context(patch.object(sfda_kernels, name, partial(getattr(sfda_kernels, name), backend=backend)))
        yield
