"""A student that borrows the source's BatchNorm statistics normalizes as the source does, and gives them back."""

from __future__ import annotations

import copy

import torch
from torch import nn

from sfda_engine.models.norms import lent_statistics


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    with torch.no_grad():
        layers[1].running_mean.normal_()
        layers[1].running_var.uniform_(0.5, 2)
    return layers.eval()


def test_equal_weights_give_equal_outputs_whatever_the_students_statistics() -> None:
    source = network(0)
    student = copy.deepcopy(source)
    with torch.no_grad():
        student[1].running_mean.add_(3)
    images = torch.randn(2, 3, 8, 8)
    own = student(images)
    with lent_statistics(student, source):
        assert torch.equal(student(images), source(images))
        assert not student[1].training
    assert torch.equal(student(images), own)
    assert not torch.equal(own, source(images))


def test_nothing_is_written_and_the_gradient_reaches_the_students_weights() -> None:
    source, student = network(0), network(1)
    before = copy.deepcopy(source.state_dict())
    with lent_statistics(student, source):
        student(torch.randn(2, 3, 8, 8)).sum().backward()
    assert student[0].weight.grad is not None
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())
    assert student[1].running_mean is not source[1].running_mean
