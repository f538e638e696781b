"""Temporary: the infrastructure of branch patch replaces this file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sfda_kernels.backend import interpreted


@pytest.fixture
def device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if not interpreted():
        pytest.skip("needs a GPU or TRITON_INTERPRET=1")
    return torch.device("cpu")


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(deterministic)
