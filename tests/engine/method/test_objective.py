"""What an objective needs: which passes, which BatchNorm policies, which attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sfda_engine.losses.attention import AttentionSettings
from sfda_engine.method.objective import Objective

PAPER = Objective(alpha=1.0, beta=0.5, tau=0.5, gamma=0.01, max_square_weight=0.1)
NO_TRANSFER = {"alpha": 0.0, "beta": 0.0}
NO_TARGET_TERM = {"gamma": 0.0, "max_square_weight": 0.0}


@pytest.mark.parametrize(
    ("changes", "transfer", "ipsm", "target_loss", "target_pass"),
    [
        ({}, True, True, True, True),
        ({"alpha": 0.0}, True, True, True, True),
        (NO_TRANSFER, False, True, True, True),
        ({"patch_grid": 1}, True, False, True, True),
        ({"patch_grid": 1, "max_square_weight": 0.0}, True, False, False, True),
        (NO_TARGET_TERM, True, False, False, True),
        # frozen statistics: nothing is written, so only a term asks for the pass
        (NO_TARGET_TERM | {"target_bn": "running"}, True, False, False, True),
        (NO_TARGET_TERM | {"target_bn": "running", "tau": 0.0}, True, False, False, False),
        (NO_TARGET_TERM | NO_TRANSFER | {"target_bn": "running"}, False, False, False, False),
        (NO_TARGET_TERM | NO_TRANSFER, False, False, False, True),
    ],
)
def test_passes(changes: dict[str, Any], transfer: bool, ipsm: bool, target_loss: bool, target_pass: bool) -> None:
    objective = replace(PAPER, **changes)
    assert (objective.uses_transfer, objective.uses_ipsm) == (transfer, ipsm)
    assert (objective.uses_target_loss, objective.uses_target_pass) == (target_loss, target_pass)


@pytest.mark.parametrize(
    ("changes", "target", "unwritten"),
    [
        ({}, "update", "batch"),
        ({"target_bn": "running"}, "running", "running"),
        ({"fresh": True}, "batch", "batch"),
    ],
)
def test_batch_norm_policies(changes: dict[str, Any], target: str, unwritten: str) -> None:
    objective = replace(PAPER, **changes)
    assert (objective.target_statistics, objective.unwritten_statistics) == (target, unwritten)


def test_a_temperature_compares_by_cosine_and_none_by_the_dot_product() -> None:
    assert PAPER.attention == AttentionSettings(temperature=0.1, cosine=True)
    assert replace(PAPER, temperature=0.05).attention == AttentionSettings(temperature=0.05, cosine=True)
    assert replace(PAPER, temperature=None).attention == AttentionSettings(temperature=1.0, cosine=False)
