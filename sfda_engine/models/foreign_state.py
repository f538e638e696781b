"""State dicts as people keep them: under what entry and prefix of a checkpoint a network's own weights are.

Nothing is known of the trainer that wrote the file: of all its dictionaries of tensors the one is taken that has most
of the network's keys, under whatever prefix, so that wrappers of any name fit (DDP, torch.compile, Lightning, EMA).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

State = dict[str, Tensor]
DEEPEST = 4
"""Dictionaries within dictionaries that are looked into."""
COUNTER = "num_batches_tracked"
AVERAGED = "ema"
"""In the name of an entry: of equal fits, the moving average of the weights is what was published figures' own."""
LISTED = 5


def states_in(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """Every dictionary with tensors in a checkpoint, by its dotted place there: "" is the checkpoint itself."""
    if isinstance(content, list | tuple):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping) or depth > DEEPEST:
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for key, value in content.items():
        yield from states_in(value, f"{place}.{key}" if place else str(key), depth + 1)


def prefix_of(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """The prefix, "" or ending in a dot, under which most of the expected keys are in a state."""
    prefixes: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        prefixes.update(
            ".".join(parts[:cut]) + "." if cut else "" for cut in range(len(parts)) if ".".join(parts[cut:]) in expected
        )
    return max(prefixes, key=lambda prefix: (prefixes[prefix], -len(prefix)), default="")


def wrappers(expected: Mapping[str, Tensor]) -> list[str]:
    """The prefixes, "" or ending in a dot, of more than half of a network's keys, of what a wrapper holds."""
    prefixes: Counter[str] = Counter()
    for key in expected:
        parts = key.split(".")
        prefixes.update(".".join(parts[:cut]) + "." for cut in range(1, len(parts)))
    return ["", *(prefix for prefix, count in prefixes.items() if 2 * count > len(expected))]


def fit(state: State, expected: Mapping[str, Tensor]) -> tuple[int, State]:
    """How many of the expected keys, of their shapes, a state has; and the state with its best prefix taken off and the
    network's own put on."""
    found: list[tuple[int, State]] = []
    for outer in wrappers(expected):
        inner = {key.removeprefix(outer): value for key, value in expected.items() if key.startswith(outer)}
        prefix = prefix_of(state, inner)
        own = {outer + key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        found.append((sum(own[key].shape == value.shape for key, value in expected.items() if key in own), own))
    return max(found, key=lambda one: one[0])


def matched(states: Mapping[str, State], expected: Mapping[str, Tensor], origin: object) -> State:
    """The state of a network with the keys of `expected`, from the states of a checkpoint by their place.

    Counters of BatchNorm that the file lacks are the network's own. Keys that the network lacks, as of auxiliary heads,
    are left out with a warning where all others are there; else they stay, for a strict loader to refuse.
    """
    fits = {place: fit(state, expected) for place, state in states.items()}
    place = max(fits, key=lambda place: (fits[place][0], AVERAGED in place.lower()))
    state = fits[place][1]
    if sum(found == fits[place][0] for found, _ in fits.values()) > 1:
        log.warning("weights %s hold several states that fit; '%s' is taken", origin, place)
    counters = {key: torch.zeros_like(value) for key, value in expected.items() if key.endswith(COUNTER)}
    state = counters | state if any(key in state for key in expected) else state
    extra = [key for key in state if key not in expected]
    if extra and all(key in state for key in expected):
        more = ", ..." if len(extra) > LISTED else ""
        listed = ", ".join(key[:80] for key in extra[:LISTED])
        log.warning(
            "weights %s: %d entries that the network lacks are left out (%s%s)", origin, len(extra), listed, more
        )
        state = {key: state[key] for key in expected}
    return state
