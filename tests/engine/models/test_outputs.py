"""What networks return: each form against the logits that it was made from."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor

from sfda_engine.errors import UserError
from sfda_engine.models.outputs import are_probabilities, as_logits, classes_of, main_map

MAIN = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
AUXILIARY = torch.zeros(2, 5, 3, 3)


@pytest.mark.parametrize(
    "output",
    [
        MAIN,
        {"out": MAIN, "aux": AUXILIARY},
        {"aux": AUXILIARY, "out": MAIN},
        OrderedDict(loss=torch.zeros(()), logits=MAIN, hidden_states=(AUXILIARY,)),
        {"preds": MAIN},
        (MAIN,),
        [MAIN, AUXILIARY],
        (torch.zeros(2, 5), MAIN),
    ],
    ids=["plain", "torchvision", "auxiliary first", "model output", "other name", "tuple", "heads", "vector first"],
)
def test_the_main_head(output: Any) -> None:
    assert main_map(output) is MAIN


@pytest.mark.parametrize("output", [{}, [], (1, "a"), {"out": torch.zeros(2, 5)}, torch.zeros(3), None])
def test_nothing_that_is_a_map(output: Any) -> None:
    with pytest.raises(UserError, match="4-D"):
        main_map(output)


@pytest.mark.parametrize(
    ("maps", "probabilities"),
    [
        (MAIN, False),
        (MAIN.softmax(1), True),
        (MAIN.softmax(1).half(), True),
        (MAIN.log_softmax(1), False),
        (MAIN.sigmoid(), False),  # of many classes each for itself: no distribution
        (MAIN[:, :1], False),
        (MAIN[:, :1].sigmoid(), True),
        (torch.full_like(MAIN, float("nan")), False),
    ],
)
def test_probabilities_are_recognised(maps: Tensor, probabilities: bool) -> None:
    assert are_probabilities(maps) == probabilities


@pytest.mark.parametrize("maps", [MAIN, MAIN.softmax(1), MAIN.log_softmax(1)])
def test_the_softmax_of_the_logits_is_the_networks_own(maps: Tensor) -> None:
    logits = as_logits(maps, are_probabilities(maps))
    torch.testing.assert_close(logits.double().softmax(1), MAIN.double().softmax(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("maps", [MAIN[:, :1], MAIN[:, :1].sigmoid()])
def test_one_channel_is_the_second_of_two_classes(maps: Tensor) -> None:
    logits = as_logits(maps, are_probabilities(maps))
    assert classes_of(maps) == logits.shape[1] == 2
    torch.testing.assert_close(logits.softmax(1)[:, 1:], MAIN[:, :1].sigmoid(), rtol=1e-4, atol=1e-5)
