"""What the tests of the guard share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sfda_engine.judge.collapse import (
    Signals,
)
from sfda_engine.pipelines.training import Trainer
from sfda_engine.training.guard import Guard
from tests.engine.training.guard_states import scripted


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Signals]], list[Guard]]:
    """script([...]) lets every guard made from now on see these signals, and returns those that were made."""

    def plant(signals: list[Signals]) -> list[Guard]:
        made: list[Guard] = []
        true_make = Trainer.make_guard

        def make(self: Trainer) -> Guard:
            guard = true_make(self)
            scripted(guard, signals)
            made.append(guard)
            return guard

        monkeypatch.setattr(Trainer, "make_guard", make)
        return made

    return plant
