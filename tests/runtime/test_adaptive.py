"""The state of a self-adapting model as a transaction: what moves it, what cannot, and what brings it back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sfda_runtime import (
    Adaptation,
    AdaptiveSegmenter,
    Bounds,
    IntegrityError,
    ModelError,
    Segmenter,
    Status,
    UsageError,
)
from sfda_runtime.state import State
from tests.runtime.tiny import picture, write_manifest
from tests.runtime.tiny_adaptive import (
    START_MEAN,
    START_VAR,
    adaptive_labels,
    statistics_of,
    write_adaptive_bundle,
)

Load = Callable[..., AdaptiveSegmenter]


@pytest.fixture(scope="module")
def adaptive_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adaptive_bundle(tmp_path_factory.mktemp("adaptive") / "bundle")


@pytest.fixture
def load(adaptive_bundle: Path) -> Load:
    """load(update=0.1, ...) -> an AdaptiveSegmenter with these fields of Adaptation and settings of Segmenter."""

    def build(settings: dict[str, Any] | None = None, **adaptation: Any) -> AdaptiveSegmenter:
        return AdaptiveSegmenter.load(adaptive_bundle, adaptation=Adaptation(**adaptation), **(settings or {}))

    return build


def shade(seed: int, contrast: float = 1.0, light: float = 0.0) -> NDArray[np.uint8]:
    """A frame of colored noise around middle gray."""
    return np.clip(127 + contrast * (picture(seed).astype(float) - 127) + light, 0, 255).astype(np.uint8)


def same(state: State, other: State) -> bool:
    return np.array_equal(state.mean, other.mean) and np.array_equal(state.var, other.var)


def test_a_frame_moves_the_state_and_its_own_normalization(load: Load) -> None:
    segmenter = load(normalize=0.3, update=0.1)
    frame = shade(1, 0.7, 20)
    mean, var = statistics_of(frame)
    result = segmenter.step(frame)
    assert result.status is Status.OK
    np.testing.assert_allclose(segmenter.state.mean, 0.9 * START_MEAN + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(segmenter.state.var, 0.9 * START_VAR + 0.1 * var, rtol=1e-5)
    expected = adaptive_labels(frame, 0.7 * START_MEAN + 0.3 * mean, 0.7 * START_VAR + 0.3 * var)
    assert np.mean(result.labels == expected) > 0.999
    assert np.mean(result.labels == adaptive_labels(frame, START_MEAN, START_VAR)) < 0.99
    assert result.entropy is not None
    assert result.confidence is not None


def test_only_every_nth_frame_moves_the_state(load: Load) -> None:
    segmenter = load(every=3)
    states = []
    for seed in range(6):
        segmenter(shade(seed, 0.8))
        states.append(segmenter.state)
    assert [state.updates for state in states] == [1, 1, 1, 2, 2, 2]
    assert same(states[0], states[2])
    assert not same(states[2], states[3])
    assert segmenter(shade(6)).status is Status.OK
    blind = load(every=2, update=1.0, entropy=1.0)
    blind(shade(1))
    assert blind(shade(2, 0.1)).status is Status.OK  # it would be refused, but nothing is asked of it
    assert blind(shade(3, 0.1)).status is Status.STATE_REJECTED


def test_a_repeated_picture_moves_nothing_but_a_reused_buffer_does(load: Load) -> None:
    segmenter = load()
    buffer = shade(1)
    segmenter(buffer)
    segmenter(buffer.copy())
    assert segmenter.state.updates == 1
    buffer[:] = shade(2)  # as a camera's driver does
    segmenter(buffer)
    assert segmenter.state.updates == 2


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((48, 64, 3), np.uint8),
        np.full((48, 64, 3), 255, np.uint8),
        np.full((48, 64, 3), np.nan, np.float32),
        np.zeros((48, 64, 4), np.uint8),
        np.full((48, 64, 3), 90, np.uint8),
        None,
    ],
    ids=["black", "saturated", "nan", "four channels", "flat", "no frame"],
)
def test_a_frame_that_the_guard_refuses_changes_nothing(load: Load, bad: Any) -> None:
    segmenter = load(normalize=1.0, update=1.0)
    segmenter(shade(1))
    before = segmenter.state
    result = segmenter(bad)
    assert result.status is Status.BAD_INPUT
    assert (result.labels == 255).all()
    assert segmenter.state is before
    assert segmenter(shade(2)).status is Status.OK


@pytest.mark.parametrize(
    ("frame", "said"),
    [(shade(1, 0.1), "channel 0 is 0.0"), (shade(1, 0.4, 100), "standard deviations")],
    ids=["contrast lost", "too bright"],
)
def test_a_state_out_of_bounds_is_refused_and_the_last_good_one_labels(
    load: Load, frame: NDArray[np.uint8], said: str
) -> None:
    segmenter = load(normalize=1.0, update=1.0, bounds=Bounds(drift=1.2))
    segmenter(shade(3))
    good = segmenter.state
    result = segmenter.step(frame)
    assert result.status is result.fault is Status.STATE_REJECTED
    assert said in result.reason
    assert segmenter.state is good
    assert np.mean(result.labels == adaptive_labels(frame, good.mean, good.var)) > 0.999
    assert segmenter(shade(4)).status is Status.OK


def test_a_state_that_is_not_finite_is_refused(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = load()
    run = segmenter.network.run

    def poisoned(frames: Any, state: State, normalize: float = 0.0, update: float = 0.0) -> Any:
        maps, proposed = run(frames, state, normalize, update)
        return maps, State(proposed.mean * np.float32("nan"), proposed.var, proposed.updates) if update else proposed

    monkeypatch.setattr(segmenter.network, "run", poisoned)
    result = segmenter(shade(1))
    assert (result.status, result.reason) == (Status.STATE_REJECTED, "the state is not finite")
    assert same(segmenter.state, State(START_MEAN, START_VAR))


def test_a_late_frame_that_is_rejected_says_both(load: Load) -> None:
    ticks = iter(range(1000))
    segmenter = load({"deadline_ms": 1.0, "clock": lambda: next(ticks)}, update=1.0)
    result = segmenter(shade(1, 0.1))
    assert (result.status, result.fault) == (Status.STATE_REJECTED, Status.DEADLINE_MISS)
    assert "variance" in result.reason
    assert "allowed" in result.reason


def collapsing(segmenter: AdaptiveSegmenter) -> State:
    """A state that makes every pixel one class; within no bounds, as if they had been set too wide."""
    return State(START_MEAN + np.array([0, 4000, 4000], np.float32), START_VAR, segmenter.state.updates)


def test_collapsed_labels_roll_back_to_the_newest_good_state(load: Load) -> None:
    segmenter = load(ring=2, ring_every=3, bounds=Bounds(drift=1e9))
    for seed in range(8):
        segmenter(shade(seed))
    kept = [state.updates for state in segmenter.network._ring]
    assert kept == [3, 6]
    newest = segmenter.network._ring[-1]
    segmenter.network.state = collapsing(segmenter)
    result = segmenter(frame := shade(9))
    assert result.status is Status.STATE_REJECTED
    assert "back by 2 " in result.reason
    assert segmenter.state is newest
    assert np.mean(result.labels == adaptive_labels(frame, newest.mean, newest.var)) > 0.999
    assert segmenter(shade(10)).status is Status.OK
    assert segmenter.state.updates == 7


def test_where_the_frame_s_own_statistics_collapse_alone_the_state_stays(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = load(normalize=0.5)
    run = segmenter.network.run

    def fragile(frames: Any, state: State, normalize: float = 0.0, update: float = 0.0) -> Any:
        maps, proposed = run(frames, state, normalize, update)
        return (maps._replace(labels=np.zeros_like(maps.labels)) if normalize else maps), proposed

    segmenter(shade(1))
    before = segmenter.state
    monkeypatch.setattr(segmenter.network, "run", fragile)
    result = segmenter(frame := shade(2))
    assert result.status == Status.STATE_REJECTED
    assert "back by 0 " in result.reason
    assert segmenter.state is before
    assert np.mean(result.labels == adaptive_labels(frame, before.mean, before.var)) > 0.999


def test_states_newer_than_the_one_rolled_back_to_are_forgotten(load: Load) -> None:
    segmenter = load(bounds=Bounds(drift=1e9))
    segmenter(shade(1))
    good = segmenter.state
    segmenter.network._ring.extend([good, State(collapsing(segmenter).mean, START_VAR, 7)])
    segmenter.network.state = State(collapsing(segmenter).mean, START_VAR, 9)
    assert "back by 8 " in segmenter(shade(2)).reason
    assert segmenter.state is good
    assert segmenter.network._ring[-1] is good


def test_rolls_back_to_the_exported_model_where_the_ring_is_bad_too(load: Load) -> None:
    segmenter = load(bounds=Bounds(drift=1e9))
    segmenter.network.set_state(collapsing(segmenter))
    assert segmenter(shade(1)).status is Status.STATE_REJECTED
    assert same(segmenter.state, State(START_MEAN, START_VAR))


@pytest.mark.parametrize("limits", [{"one_class": 0.0}, {"entropy": 0.0}])
def test_a_frame_that_collapses_in_every_good_state_is_kept_out(load: Load, limits: dict[str, float]) -> None:
    segmenter = load(**limits)
    before = segmenter.state
    result = segmenter(frame := shade(1))
    assert (result.status, segmenter.state) == (Status.STATE_REJECTED, before)
    assert "every good state" in result.reason
    assert np.mean(result.labels == adaptive_labels(frame, START_MEAN, START_VAR)) > 0.999


def test_warming_up_moves_nothing(load: Load) -> None:
    segmenter = load()
    assert len(segmenter.warm_up(3)) == 3
    assert segmenter.state is segmenter.network.start
    segmenter(shade(1))
    assert segmenter.state.updates == 1


def test_a_drive_goes_on_from_its_saved_state(load: Load, tmp_path: Path) -> None:
    one, two = load(), load()
    for seed in range(5):
        one(shade(seed, 0.8))
    one.save_state(tmp_path / "state.npz")
    two.load_state(tmp_path / "state.npz")
    assert same(one.state, two.state)
    assert two.state.updates == 5
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]
    np.testing.assert_array_equal(one(shade(7)).labels, two(shade(7)).labels)
    assert same(one.state, two.state)


def test_loads_refuse_what_is_no_self_adapting_bundle(
    adaptive_bundle: Path, shared_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"has no model_adaptive\.onnx"):
        AdaptiveSegmenter.load(shared_bundle)
    with pytest.raises(UsageError, match="AdaptiveSegmenter"):
        Segmenter.load(adaptive_bundle / "model_adaptive.onnx")
    (tmp_path / "lone.onnx").write_bytes((adaptive_bundle / "model_adaptive.onnx").read_bytes())
    with pytest.raises(UsageError, match=r"bn_state\.npz"):
        AdaptiveSegmenter.load(tmp_path / "lone.onnx")
    with pytest.raises(UsageError, match=r"update .*0 .*1.* 2"):
        Adaptation(update=2.0)
    with pytest.raises(UsageError, match=r"every .*1.* 0"):
        Adaptation(every=0)


def test_a_start_state_that_is_not_the_exported_one_is_refused(tmp_path: Path) -> None:
    folder = write_adaptive_bundle(tmp_path / "bundle")
    start = folder / "bn_state.npz"
    whole = start.read_bytes()
    start.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(IntegrityError, match=r"bn_state\.npz"):
        AdaptiveSegmenter.load(folder)
    np.savez(start, mean=START_MEAN[:2], var=START_VAR[:2])
    write_manifest(folder, [])
    with pytest.raises(ModelError, match=r"\[3\].*bn_state\.npz.*\[2\]"):
        AdaptiveSegmenter.load(folder)
