"""The engine with kernels on and off: the same loss curve, step by step (a tiny size in the interpreter)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from accelerate import Accelerator

import sfda_kernels
from sfda_engine.distributed.optimizer_step import Update
from sfda_engine.method.objective import Objective
from sfda_engine.method.steps import Networks, Updates, adaptation_step
from sfda_engine.models.discriminator import PatchDiscriminator
from sfda_engine.models.generator import Generator
from sfda_engine.models.norms import batch_norm_statistics
from sfda_engine.models.streetnet import StreetNet

CLASSES, BATCH, STEPS = 5, 2, 3
OPERATORS = ("attention_kl", "attention_l1", "patch_entropy")


def build(size: tuple[int, int], device: str) -> Networks:
    """A source with statistics of its own and a student that has moved away from it."""
    torch.manual_seed(0)
    source = StreetNet(CLASSES)
    with torch.no_grad(), batch_norm_statistics(source, "update"):
        for _ in range(4):
            source(torch.randn(4, 3, *size))
    student = copy.deepcopy(source.eval())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    synthetic = (size[0] // 2, size[1] // 2)
    networks = (source.requires_grad_(False), student, Generator(synthetic, width=8), PatchDiscriminator(CLASSES, 4))
    return Networks(*(network.to(device) for network in networks))


def curve(device: str, size: tuple[int, int]) -> list[dict[str, float]]:
    """Every logged term of a few steps."""
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
    networks = build(size, device)

    def update(module: torch.nn.Module) -> Update:
        return Update(accelerator, accelerator.prepare(torch.optim.SGD(module.parameters(), 0.01)), 1.0)

    updates = Updates(update(networks.student), update(networks.generator), update(networks.discriminator))
    draw = torch.Generator().manual_seed(1)
    objective = Objective(alpha=1.0, beta=0.5, tau=0.5, gamma=0.1, max_square_weight=0.1, patch_grid=2)
    terms = []
    for _ in range(STEPS):
        images = torch.randn(BATCH, 3, *size, generator=draw).to(device)
        latents = [torch.randn(BATCH, 256, generator=draw).to(device) for _ in range(2)]
        step = adaptation_step(networks, updates, images, latents, objective, nullcontext)
        terms.append({name: value.item() for name, value in step.items()})
    return terms


def test_kernels_on_and_off_give_one_curve(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (32, 48) if device == "cpu" else (128, 256)
    calls: list[tuple[str, str]] = []

    def on(backend: str) -> None:
        for name in OPERATORS:
            monkeypatch.setattr(sfda_kernels, name, partial(forced, name, originals[name], backend))

    def forced(name: str, operator: Callable, backend: str, *arguments: object, **options: object) -> object:
        calls.append((name, backend))
        return operator(*arguments, **options, backend=backend)

    originals = {name: getattr(sfda_kernels, name) for name in OPERATORS}
    on("torch")
    plain = curve(device, size)
    on("triton")
    kernels = curve(device, size)
    assert {(name, backend) for name in OPERATORS for backend in ("torch", "triton")} == set(calls)
    for step, (expected, actual) in enumerate(zip(plain, kernels, strict=True)):
        assert expected.keys() == actual.keys()
        for name in expected:
            assert actual[name] == pytest.approx(expected[name], rel=2e-3, abs=2e-5), f"step {step}: {name}"
    assert plain[0] != plain[-1]
