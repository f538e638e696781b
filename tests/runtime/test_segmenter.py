"""The contract of one frame: labels, sizes, statuses, and what is held or ignored when something fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfda_runtime import InputError, Limits, ModelError, Segmenter, Status, UsageError
from sfda_runtime.model import open_model
from sfda_runtime.session import SessionOptions
from tests.runtime.tiny import CLASSES, SIZE, WEIGHTS, broken_output, labels_of, picture

BLACK = np.zeros((48, 64, 3), np.uint8)


def test_labels_are_those_of_the_network(segmenter: Segmenter) -> None:
    frame = picture(1)
    result = segmenter(frame)
    assert (result.status, result.fault, result.age, result.reason) == (Status.OK, None, 0, "")
    np.testing.assert_array_equal(result.labels, labels_of(frame))
    assert result.labels.dtype == np.uint8
    assert result.confidence is None
    assert sum(result.split_ms) == pytest.approx(result.latency_ms)


def test_diagnostics_against_float64(shared_bundle: Path) -> None:
    frame = picture(2)
    result = Segmenter.load(shared_bundle, diagnostics=True)(frame)
    logits = frame.astype(np.float64) @ WEIGHTS.astype(np.float64) / 256
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    assert result.confidence is not None
    assert result.entropy is not None
    np.testing.assert_allclose(result.confidence, 255 * p.max(-1), atol=0.51)
    np.testing.assert_allclose(result.entropy, 255 * -(p * np.log(p)).sum(-1) / np.log(len(CLASSES)), atol=0.51)


def test_other_sizes_follow_the_resize_rule(segmenter: Segmenter) -> None:
    frame = picture(3, (90, 70))
    small = np.asarray(Image.fromarray(frame).resize(SIZE, Image.Resampling.BILINEAR))
    expected = Image.fromarray(labels_of(small)).resize((90, 70), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(segmenter(frame).labels, np.asarray(expected))


@pytest.mark.parametrize(("label_size", "shape"), [("network", (48, 64)), ("frame", (70, 90)), ((33, 44), (44, 33))])
def test_label_size(shared_bundle: Path, label_size: Any, shape: tuple[int, int]) -> None:
    segmenter = Segmenter.load(shared_bundle, label_size=label_size)
    assert segmenter(picture(3, (90, 70))).labels.shape == shape
    assert segmenter(np.zeros((70, 90, 3), np.uint8)).labels.shape == shape  # refused, the same size all the same


def test_a_view_of_bgr_memory_is_read_in_its_own_order(segmenter: Segmenter) -> None:
    bgr = np.ascontiguousarray(picture(4)[..., ::-1])
    np.testing.assert_array_equal(segmenter(bgr[..., ::-1]).labels, labels_of(picture(4)))


@pytest.mark.parametrize("frame", [BLACK, np.full_like(BLACK, 255)])
def test_ignore_gives_no_class(segmenter: Segmenter, frame: Any) -> None:
    segmenter(picture(5))
    result = segmenter(frame, "dark")
    assert (result.status, result.fault, result.frame_id) == (Status.BAD_INPUT, Status.BAD_INPUT, "dark")
    assert (result.labels == 255).all()
    assert result.labels.shape == (48, 64)


def test_diagnostics_of_a_refused_frame_show_no_confidence(shared_bundle: Path) -> None:
    result = Segmenter.load(shared_bundle, diagnostics=True)(BLACK)
    assert result.confidence is not None
    assert result.entropy is not None
    assert (result.confidence == 0).all()
    assert (result.entropy == 255).all()


def test_hold_gives_the_last_good_labels_up_to_their_age(shared_bundle: Path) -> None:
    segmenter = Segmenter.load(shared_bundle, on_error="hold", max_age_frames=2)
    assert (segmenter(BLACK).labels == 255).all()  # nothing to hold yet
    good = segmenter(picture(6))
    for age in (1, 2):
        held = segmenter(BLACK, "b")
        assert (held.status, held.fault, held.age, held.frame_id) == (Status.STALE, Status.BAD_INPUT, age, "b")
        np.testing.assert_array_equal(held.labels, good.labels)
    old = segmenter(BLACK)
    assert (old.status, old.age) == (Status.BAD_INPUT, 0)
    assert (old.labels == 255).all()
    assert segmenter(picture(7)).status == Status.OK
    assert segmenter(BLACK).age == 1


@pytest.mark.parametrize("on_error", ["ignore", "hold"])
def test_an_output_that_is_no_class_is_a_model_error(shared_bundle: Path, on_error: Any) -> None:
    result = Segmenter.load(shared_bundle, on_error=on_error)(broken_output(picture(8)))
    assert result.status == Status.MODEL_ERROR
    assert (result.labels == 255).all()


def test_raise(shared_bundle: Path) -> None:
    segmenter = Segmenter.load(shared_bundle, on_error="raise")
    with pytest.raises(InputError, match="black"):
        segmenter(BLACK)
    with pytest.raises(ModelError, match="label 13"):
        segmenter(broken_output(picture(9)))


def test_a_network_that_fails_is_a_status(shared_bundle: Path) -> None:
    def fail(frames: Any) -> Any:
        raise ModelError("out of memory")

    segmenter = Segmenter(open_model(shared_bundle, "labels", SessionOptions()), network=fail)
    result = segmenter(picture(0))
    assert (result.status, result.reason) == (Status.MODEL_ERROR, "out of memory")
    assert (result.labels == 255).all()


def test_a_late_frame_keeps_its_labels(shared_bundle: Path) -> None:
    ticks: Iterator[float] = iter([0.0, 0.010, 0.050, 0.051, 1.0, 1.001, 1.002, 1.003])
    model = open_model(shared_bundle, "labels", SessionOptions())
    segmenter = Segmenter(model, deadline_ms=50, clock=lambda: next(ticks))
    late, fine = segmenter(picture(1)), segmenter(picture(2))
    assert (late.status, late.fault, late.latency_ms) == (Status.DEADLINE_MISS, Status.DEADLINE_MISS, pytest.approx(51))
    np.testing.assert_allclose(late.split_ms, [10, 40, 1])
    np.testing.assert_array_equal(late.labels, labels_of(picture(1)))
    assert fine.status == Status.OK


def test_frozen_picture(shared_bundle: Path) -> None:
    segmenter = Segmenter.load(shared_bundle, limits=Limits(frozen_after=3))
    statuses = [segmenter(picture(1)).status for _ in range(5)]
    assert statuses == [Status.OK] * 3 + [Status.BAD_INPUT] * 2
    assert segmenter(picture(2)).status == Status.OK
    assert segmenter(picture(2)).status == Status.OK


@pytest.mark.parametrize("size", [SIZE, (90, 70)])
def test_results_are_read_only(segmenter: Segmenter, size: tuple[int, int]) -> None:
    """A caller who paints on a map would change what "hold" gives out next."""
    for result in (segmenter(picture(1, size)), segmenter(BLACK)):
        with pytest.raises(ValueError, match="read-only"):
            result.labels[0, 0] = 0


def test_unreadable_frame(segmenter: Segmenter) -> None:
    result = segmenter.reject("a.png is damaged", "a")
    assert (result.status, result.frame_id, result.reason) == (Status.BAD_INPUT, "a", "a.png is damaged")
    assert result.labels.shape == (48, 64)
    assert (result.labels == 255).all()


def test_frame_ids_count(segmenter: Segmenter) -> None:
    assert [segmenter(picture(n)).frame_id for n in range(2)] == ["000000", "000001"]


def test_twice_the_same_labels(shared_bundle: Path) -> None:
    first, second = (Segmenter.load(shared_bundle, threads=n)(picture(1)).labels for n in (1, 2))
    np.testing.assert_array_equal(first, second)


def test_warm_up_leaves_the_stream_alone(segmenter: Segmenter) -> None:
    assert len(segmenter.warm_up(3)) == 3
    assert segmenter(picture(1)).frame_id == "000000"


@pytest.mark.parametrize("settings", [{"on_error": "guess"}, {"providers": ["tpu"]}, {"providers": []}, {"threads": 0}])
def test_wrong_settings(shared_bundle: Path, settings: Any) -> None:
    with pytest.raises(UsageError):
        Segmenter.load(shared_bundle, **settings)
