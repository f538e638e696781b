"""Bounds of a state, and its file: written whole, and refused unless it is this model's."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfda_runtime import Bounds, IntegrityError, ModelError, UsageError
from sfda_runtime.state import State, fault_of, load_state, read_start, save_state

START = State(np.array([0, 1, -2], np.float32), np.array([1, 4, 0], np.float32))
SHA, OTHER = "a" * 64, "b" * 64
NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("mean", "var", "said"),
    [
        ([0, 1, -2], [1, 4, 0], ""),
        ([2.9, -4.9, -2], [15, 63, 0], ""),
        ([0, 1, -2], [1, 4, 1e-5], ""),  # a dead channel: below BatchNorm's epsilon nothing happens
        ([0, 1, -2], [1, 4, 1e-3], "channel 2 is 101"),
        ([0, 1, -2], [1, 65, 0], "channel 1 is 16.2"),
        ([0, 1, -2], [0.06, 4, 0], "channel 0 is 0.06"),
        ([0, 1, -2], [0, 0, 0], "channel 0 is 1e-05"),
        ([0, 1, -2], [-1, 4, 0], "channel 0 is -1"),
        ([0, -5.1, -2], [1, 4, 0], "channel 1 is 3.05"),
        ([NAN, 1, -2], [1, 4, 0], "not finite"),
        ([0, 1, -2], [1, INFINITE, 0], "not finite"),
    ],
)
def test_bounds(mean: list[float], var: list[float], said: str) -> None:
    fault = fault_of(State(np.array(mean, np.float32), np.array(var, np.float32)), START, Bounds())
    assert said in fault
    assert bool(said) == bool(fault)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    state = State(START.mean + np.array([0.5, -2, 0], np.float32), START.var * np.float32(2), 71)
    save_state(tmp_path / "s.npz", state, SHA)
    loaded = load_state(tmp_path / "s.npz", START, SHA, Bounds())
    np.testing.assert_array_equal(loaded.mean, state.mean)
    np.testing.assert_array_equal(loaded.var, state.var)
    assert loaded.updates == 71


def write(path: Path, **changes: Any) -> Path:
    arrays = {"mean": START.mean, "var": START.var, "updates": np.int64(3), "model_sha256": np.str_(SHA)} | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"model_sha256": np.str_(OTHER)}, IntegrityError, "another model"),
        ({"model_sha256": None}, IntegrityError, "another model"),
        ({"mean": START.mean[:2], "var": START.var[:2]}, ModelError, "2 .* 3$|2 channels.* 3"),
        ({"mean": START.mean[:2]}, ModelError, "mean"),
        ({"mean": START.mean.astype(np.float64)}, ModelError, "mean"),
        ({"var": None}, ModelError, "mean"),
        ({"mean": START.mean + np.array([4, 0, 0], np.float32)}, IntegrityError, "channel 0"),
        ({"var": START.var * np.float32("nan")}, IntegrityError, "not finite"),
        ({"updates": np.int64(-1)}, ModelError, "how many"),
        ({"updates": np.float64(1)}, ModelError, "how many"),
    ],
)
def test_another_state_is_refused(tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str) -> None:
    path = write(tmp_path / "s.npz", **changes)
    with pytest.raises(error, match=said):
        load_state(path, START, SHA, Bounds())


def test_damaged_files_and_pickles_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.npz")
    whole = path.read_bytes()
    for content in (
        b"",
        whole[:100],
        whole[: len(whole) // 2],
        b"PK" + whole[2:200],
        pickle.dumps({"mean": 1}),
        b"text",
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"s\.npz"):
            load_state(path, START, SHA, Bounds())
    write(path, mean=np.array([object()], dtype=object))  # would be unpickled if numpy were let
    with pytest.raises(ModelError, match=r"s\.npz"):
        load_state(path, START, SHA, Bounds())
    np.save(tmp_path / "single.npy", START.mean)
    with pytest.raises(ModelError, match=r"single\.npy"):
        load_state(tmp_path / "single.npy", START, SHA, Bounds())
    with pytest.raises(UsageError, match=r"absent\.npz"):
        load_state(tmp_path / "absent.npz", START, SHA, Bounds())


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.npz"
    save_state(path, START, SHA)
    before = path.read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(UsageError, match="No space left"):
        save_state(path, State(START.mean, START.var, 9), SHA)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UsageError, match="absent"):
        save_state(tmp_path / "absent" / "s.npz", START, SHA)


def test_the_start_state_needs_no_owner(tmp_path: Path) -> None:
    path = write(tmp_path / "s.npz", updates=None, model_sha256=None, layers=np.array(["a"]), offsets=np.array([0]))
    state = read_start(path.read_bytes(), "bn_state.npz")
    np.testing.assert_array_equal(state.mean, START.mean)
    assert state.updates == 0
