"""An update scales its own loss, as fp16 needs it: on the CPU by GradScaler's CPU kind, against plain SGD."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from sfda_engine.distributed.optimizer_step import Update

SCALE, LR = 2.0**12, 0.1


def update_of(
    accelerator: Accelerator, network: nn.Module, clip: float | None = None, *, scaled: bool = True
) -> Update:
    optimizer = torch.optim.SGD(network.parameters(), lr=LR)
    scaler = GradScaler("cpu", init_scale=SCALE, enabled=scaled)
    return Update(accelerator, accelerator.prepare_optimizer(optimizer), clip, scaler)


def networks() -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    return nn.Linear(3, 2), nn.Linear(3, 2)


def losses(network: nn.Linear) -> list[Tensor]:
    inputs = torch.arange(12.0).view(4, 3)
    return [network(inputs).square().mean(), network(inputs[:2]).abs().mean()]


@pytest.mark.parametrize("broken", [False, True])
def test_generator_that_steps_between_two_losses_leaves_the_student_alone(
    broken: bool, accelerator: Accelerator
) -> None:
    """As in a step: the student gathers, the generator clips and steps or overflows, the student gathers and steps."""
    student, generator = networks()
    expected = networks()[0]
    plain = update_of(accelerator, expected, scaled=False)
    for loss in losses(expected):
        plain.backward(loss)
    plain.step()

    for_student, for_generator = update_of(accelerator, student), update_of(accelerator, generator, clip=0.5)
    before = generator.weight.detach().clone()
    first, second = losses(student)
    for_student.backward(first)
    for_generator(losses(generator)[0] * (math.inf if broken else 1))
    for_student.backward(second)
    for_student.step()
    torch.testing.assert_close(student.weight, expected.weight)
    assert for_student.scaler.get_scale() == SCALE
    assert torch.equal(generator.weight, before) == broken
    assert for_generator.scaler.get_scale() == (SCALE / 2 if broken else SCALE)


def test_gradient_is_clipped_at_its_own_scale(accelerator: Accelerator) -> None:
    network = networks()[0]
    before = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    update_of(accelerator, network, clip=0.5)(losses(network)[0])
    after = torch.cat([parameter.detach().flatten() for parameter in network.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.5 * LR, rel=1e-4)


def test_gradients_wait_for_the_last_batch(accelerator: Accelerator) -> None:
    accelerator.gradient_accumulation_steps = 2
    network, expected = networks()[0], networks()[0]
    update = update_of(accelerator, network)
    first, second = losses(network)
    for loss in (first, second):
        with accelerator.accumulate(network):
            update(loss)
    optimizer = torch.optim.SGD(expected.parameters(), lr=LR)
    (sum(losses(expected), torch.zeros(())) / 2).backward()
    optimizer.step()
    torch.testing.assert_close(network.weight, expected.weight)
