"""What networks return: each form against the logits that it was made from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfda_engine.errors import UserError
from sfda_engine.models.outputs import as_logits, classes_of, form_of, head_at, heads_of, main_head

MAIN = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
AUXILIARY = torch.zeros(2, 5, 3, 3)


class TwoHeads(nn.Module):
    """A head after the first layer, and one after the second; `finish` is what is returned of them."""

    def __init__(self, finish: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.main = nn.Conv2d(4, 5, 1)
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.side = nn.Conv2d(4, 5, 1)
        self.finish = finish

    def forward(self, images: Tensor) -> Any:
        maps = self.first(images)
        return self.finish(self.main(self.second(maps)), self.side(maps))


@pytest.mark.parametrize(
    ("finish", "path"),
    [
        (lambda main, side: main, ()),
        (lambda main, side: {"out": main, "aux": side}, ("out",)),
        (lambda main, side: {"aux": side, "out": main}, ("out",)),
        (lambda main, side: OrderedDict(loss=main.sum(), logits=main, states=(side,)), ("logits",)),
        (lambda main, side: {"preds": main}, ("preds",)),
        (lambda main, side: (main,), (0,)),
        (lambda main, side: [main, side], (0,)),
        (lambda main, side: [side, main], (1,)),  # HRNet-OCR
        (lambda main, side: [side, main, side[:, :1]], (1,)),  # PIDNet
        (lambda main, side: ([side, main], main.mean((2, 3))), (0, 1)),
        (lambda main, side: {"out": [side, main]}, ("out", 1)),
    ],
    ids=[
        "plain",
        "torchvision",
        "aux first",
        "HF",
        "name",
        "tuple",
        "heads",
        "OCR",
        "PIDNet",
        "nested",
        "dict of heads",
    ],
)
def test_the_main_head_is_found_wherever_it_stands(finish: Callable[[Tensor, Tensor], Any], path: tuple) -> None:  # type: ignore[type-arg]
    network, frame = TwoHeads(finish).eval(), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        output = network(frame)
        expected = network.main(network.second(network.first(frame)))
    assert main_head(network, output, frame) == path
    torch.testing.assert_close(head_at(output, path), expected)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    "output", [{}, [], (1, "a"), {"out": torch.zeros(2, 5)}, torch.zeros(3), None, torch.ones(1, 4, 4).long()]
)
def test_nothing_that_is_a_map(output: Any) -> None:
    with pytest.raises(UserError, match="4-D"):
        main_head(nn.Identity(), output, torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("maps", "form"),
    [
        (MAIN, "logits"),
        (MAIN.softmax(1), "softmax"),
        (MAIN.softmax(1).half(), "softmax"),
        (MAIN.log_softmax(1), "logits"),
        (MAIN.sigmoid(), "sigmoid"),
        (MAIN[:, :1], "logits"),
        (MAIN[:, :1].sigmoid(), "sigmoid"),
        (torch.full_like(MAIN, float("nan")), "logits"),
    ],
)
def test_the_form_is_recognised(maps: Tensor, form: str) -> None:
    assert form_of(maps) == form


@pytest.mark.parametrize("maps", [MAIN, MAIN.softmax(1), MAIN.log_softmax(1), MAIN.sigmoid()])
def test_the_softmax_of_the_logits_is_the_networks_own(maps: Tensor) -> None:
    logits = as_logits(maps, form_of(maps))
    torch.testing.assert_close(logits.double().softmax(1), MAIN.double().softmax(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("maps", [MAIN[:, :1], MAIN[:, :1].sigmoid()])
def test_one_channel_is_the_second_of_two_classes(maps: Tensor) -> None:
    logits = as_logits(maps, form_of(maps))
    assert classes_of(maps) == logits.shape[1] == 2
    torch.testing.assert_close(logits.softmax(1)[:, 1:], MAIN[:, :1].sigmoid(), rtol=1e-4, atol=1e-5)


def test_queries_are_joined_as_mask_classification_does() -> None:
    generator = torch.Generator().manual_seed(0)
    classes, masks = torch.randn(2, 3, 5, generator=generator), torch.randn(2, 3, 6, 7, generator=generator)
    output = {"class_queries_logits": classes, "masks_queries_logits": masks, "other": AUXILIARY}
    (joined,) = heads_of(output).values()
    expected = torch.zeros(2, 4, 6, 7)
    for query in range(3):
        for index in range(4):
            share = classes[:, query].softmax(-1)[:, index]
            expected[:, index] += share[:, None, None] * masks[:, query].sigmoid()
    torch.testing.assert_close(joined.exp(), expected, rtol=1e-4, atol=1e-5)
