"""Checkpoints as trainers write them: the network's own weights come out of each, or it is refused."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfda_engine.errors import UserError
from sfda_engine.models.foreign_state import matched, states_in
from sfda_engine.models.weights import load_state, read_weights


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Conv2d(4, 5, 1))


NET = network()
OWN = NET.state_dict()
RAW = {key: value + 1 for key, value in OWN.items()}
"""Of the same network, before averaging."""


def under(prefix: str, state: dict[str, Tensor] = OWN) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def without(part: str) -> dict[str, Tensor]:
    return {key: value for key, value in OWN.items() if part not in key}


WRAPPINGS: dict[str, Any] = {
    "bare": OWN,
    "with an epoch": OWN | {"epoch": 3},
    "state_dict": {"state_dict": OWN, "epoch": 3, "best": np.float64(0.5)},
    "model, optimizer, args": {
        "model": OWN,
        "optimizer": {"state": {0: torch.ones(3)}},
        "args": argparse.Namespace(lr=1),
    },
    "a list": [OWN, {"epoch": 3, "path": Path("runs")}],
    "nested": {"checkpoint": {"model": {"weights": OWN}}},
    "DistributedDataParallel": under("module."),
    "torch.compile": under("_orig_mod."),
    "Lightning": {"state_dict": under("model.net."), "hyper_parameters": {"lr": 0.1}},
    "AveragedModel": torch.optim.swa_utils.AveragedModel(NET).state_dict(),
    "twice wrapped": {"state_dict": under("module.module.")},
    "moving average": {"model": RAW, "state_dict_ema": OWN},
    "without counters": without("num_batches_tracked"),
    "auxiliary head": OWN | {"auxiliary.0.weight": torch.ones(2)},
    "wrapped, auxiliary head": {"state_dict": under("module.") | {"module.loss.weight": torch.ones(5)}},
    "a teacher of another size beside": {"teacher": {"0.0.weight": torch.ones(8, 3, 3, 3)}, "student": OWN},
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_the_networks_own_weights_come_out(name: str, tmp_path: Path) -> None:
    torch.save(WRAPPINGS[name], tmp_path / "w.ckpt")
    loaded = network()
    for value in loaded.state_dict().values():
        value.zero_()
    load_state(loaded, read_weights(tmp_path / "w.ckpt", loaded)[0], "w.ckpt")
    assert all(torch.equal(value, OWN[key]) for key, value in loaded.state_dict().items())


class Wrapper(nn.Module):
    """What people write around a published network, to merge its classes."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()


@pytest.mark.parametrize("name", WRAPPINGS)
def test_a_wrapper_takes_the_weights_of_what_it_holds(name: str, tmp_path: Path) -> None:
    torch.save(WRAPPINGS[name], tmp_path / "w.ckpt")
    wrapper = Wrapper()
    for value in wrapper.state_dict().values():
        value.zero_()
    load_state(wrapper, read_weights(tmp_path / "w.ckpt", wrapper)[0], "w.ckpt")
    assert all(torch.equal(value, OWN[key]) for key, value in wrapper.network.state_dict().items())


def test_what_is_left_out_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        matched({"": OWN | {"auxiliary.weight": torch.ones(1)}}, OWN, "w.pth")
    assert "auxiliary.weight" in caplog.text


@pytest.mark.parametrize(
    ("state", "key"),
    [
        (without("1.weight"), "1.weight"),
        (OWN | {"1.weight": torch.ones(7, 4, 1, 1)}, "1.weight"),
        ({"a": Tensor()}, "0.0"),
    ],
)
def test_weights_of_another_network_are_refused(state: dict[str, Tensor], key: str, tmp_path: Path) -> None:
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=key):
        load_state(network(), read_weights(tmp_path / "w.pth", network())[0], "w.pth")


def test_code_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": OWN, "model": NET}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth"):
        read_weights(tmp_path / "w.pth", NET)


def test_endless_nesting_ends() -> None:
    content: dict[str, Any] = {"w": torch.ones(1)}
    content["itself"] = content
    assert len(list(states_in(content))) < 10
