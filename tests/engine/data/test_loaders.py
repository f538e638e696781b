"""Draws depend on the seed and the draw alone; frame and label are transformed as one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sfda_engine.data.images import ImageSize
from sfda_engine.data.loaders import Draws, EvaluationFrames, TargetFrames, TrainingFrames, draw_loader, mix_seeds
from sfda_engine.errors import UserError

SIZE = ImageSize(48, 32)


class Ramps:
    """Frames whose red is 5 times the column and green 7 times the row; the label is the column or the row.

    Bilinear zooming keeps a ramp a ramp, so frame and label can be compared pixel by pixel after any crop.
    """

    def __init__(self, count: int = 5, size: tuple[int, int] = SIZE, along: str = "columns") -> None:
        self.count, self.size, self.along = count, size, along

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"ramp_{index}"

    def image(self, index: int) -> Image.Image:
        columns, rows = np.meshgrid(np.arange(self.size[0]), np.arange(self.size[1]))
        return Image.fromarray(np.dstack([5 * columns, 7 * rows, 0 * rows + index]).astype(np.uint8))

    def label(self, index: int) -> Image.Image:
        columns, rows = np.meshgrid(np.arange(self.size[0]), np.arange(self.size[1]))
        return Image.fromarray((columns if self.along == "columns" else rows).astype(np.uint8))


def drawn(frames: int, seed: int, start: int, stop: int) -> list[tuple[int, int]]:
    return list(Draws(frames, seed=seed, start=start, stop=stop))


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(1, 40), seed=st.integers(0, 2**63), epochs=st.integers(1, 4), data=st.data())
def test_every_frame_once_an_epoch_and_a_resumed_run_sees_the_tail(
    frames: int, seed: int, epochs: int, data: st.DataObject
) -> None:
    stop = frames * epochs + data.draw(st.integers(0, frames - 1), "part of an epoch")
    start = data.draw(st.integers(0, stop), "start")
    whole = drawn(frames, seed, 0, stop)
    assert [draw for draw, _ in whole] == list(range(stop))
    for first in range(0, frames * epochs, frames):
        assert sorted(frame for _, frame in whole[first : first + frames]) == list(range(frames))
    assert drawn(frames, seed, start, stop) == whole[start:]
    assert len(Draws(frames, seed=seed, start=start, stop=stop)) == stop - start


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    order = [frame for _, frame in drawn(40, 0, 0, 80)]
    assert order[:40] != order[40:]
    assert order[:40] != [frame for _, frame in drawn(40, 1, 0, 40)]


def test_mixed_seeds_differ_and_fit_a_torch_generator() -> None:
    seeds = {mix_seeds(*parts) for parts in [(a, b, c) for a in range(12) for b in range(12) for c in range(12)]}
    assert len(seeds) == 12**3
    assert mix_seeds(1, 2) != mix_seeds(2, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_target_items_have_no_way_to_a_label() -> None:
    item = TargetFrames(Ramps(size=(96, 64)), size=SIZE, flip=False, seed=0)[3, 2]
    assert item.keys() == {"image", "name"}
    assert item["name"] == "ramp_2"
    assert item["image"].shape == (3, 32, 48)
    assert item["image"].dtype == torch.float32
    assert item["image"].min() >= 0
    assert item["image"].max() <= 1


def test_flip_is_decided_by_seed_and_draw() -> None:
    frames = TargetFrames(Ramps(), size=SIZE, flip=True, seed=0)
    plain = TargetFrames(Ramps(), size=SIZE, flip=False, seed=0)[0, 0]["image"]
    flips = []
    for draw in range(64):
        image = frames[draw, 0]["image"]
        flips.append(bool((image == plain.flip(-1)).all()))
        assert flips[-1] != bool((image == plain).all())
        assert torch.equal(image, frames[draw, 0]["image"])
    assert 16 < sum(flips) < 48
    other = TargetFrames(Ramps(), size=SIZE, flip=True, seed=1)
    assert flips != [bool((other[draw, 0]["image"] == plain.flip(-1)).all()) for draw in range(64)]


def training(
    images: Ramps, *, scale: tuple[float, float] = (1.0, 1.0), flip: bool = False, jitter: float = 0.0, seed: int = 0
) -> TrainingFrames:
    return TrainingFrames(images, size=SIZE, scale=scale, flip=flip, jitter=jitter, seed=seed)


@pytest.mark.parametrize(("along", "channel", "step"), [("columns", 0, 5), ("rows", 1, 7)])
def test_crop_and_flip_move_frame_and_label_together(along: str, channel: int, step: int) -> None:
    frames = training(Ramps(along=along), scale=(1.0, 3.0), flip=True)
    shown = set()
    for draw in range(30):
        item = frames[draw, 0]
        position = item["image"][channel] * 255 / step
        assert (position - item["label"]).abs().max() <= 1.001  # bilinear against nearest: within a source pixel
        shown.add((int(item["label"].min()), int(item["label"].max())))
    assert len(shown) > 10


def test_zoom_stays_within_its_bounds() -> None:
    frames = training(Ramps(size=(240, 160)), scale=(1.25, 2.0))
    spans = [np.ptp(frames[draw, 0]["label"].numpy()) + 1 for draw in range(40)]
    assert min(spans) >= 240 / 2.0 - 6
    assert max(spans) <= 240 / 1.25 + 6
    assert max(spans) - min(spans) > 30


def test_without_augmentation_the_frame_is_itself() -> None:
    item = training(Ramps())[0, 4]
    assert item["name"] == "ramp_4"
    assert item["image"].dtype == torch.float32
    assert item["label"].dtype == torch.int64
    assert type(item["image"]) is type(item["label"]) is torch.Tensor
    np.testing.assert_allclose(item["image"].permute(1, 2, 0) * 255, np.asarray(Ramps().image(4)), atol=1e-4)
    np.testing.assert_array_equal(item["label"], np.asarray(Ramps().label(4)))


def test_zoom_1_is_the_whole_frame_whatever_its_aspect() -> None:
    """As evaluation and adaptation see it: stretched to the size, nothing cut off (GTA5 has 1.82, the recipes 2)."""
    for size, along in (((80, 30), "columns"), ((40, 60), "rows")):
        images = Ramps(size=size, along=along)
        label = training(images)[0, 0]["label"]
        last = size[0] - 1 if along == "columns" else size[1] - 1
        assert label.shape == (SIZE[1], SIZE[0])
        assert int(label.min()) <= 1
        assert int(label.max()) >= last - 1
        seen = EvaluationFrames(images, size=SIZE)[0]["image"]
        assert (training(images)[0, 0]["image"] - seen).abs().max() <= 2 / 255  # torchvision's bilinear and Pillow's


def test_jitter_changes_colors_not_labels() -> None:
    frames, plain = training(Ramps(), jitter=0.3), training(Ramps())[0, 0]
    items = [frames[draw, 0] for draw in range(4)]
    assert len({float(item["image"].mean()) for item in items}) == 4
    assert all(torch.equal(item["label"], plain["label"]) for item in items)
    assert torch.equal(items[1]["image"], frames[1, 0]["image"])


def test_label_of_another_size_than_its_frame_is_refused_in_training() -> None:
    class Misfit(Ramps):
        def label(self, index: int) -> Image.Image:
            return super().label(index).resize((24, 16), Image.Resampling.NEAREST)

    with pytest.raises(UserError, match=r"ramp_1 .*48x32.*24x16"):
        training(Misfit())[0, 1]


def test_evaluation_keeps_the_labels_as_they_are() -> None:
    frames = EvaluationFrames(Ramps(size=(90, 70)), size=SIZE)
    item = frames[1]
    assert len(frames) == 5
    assert item["image"].shape == (3, 32, 48)
    assert item["label"].dtype == torch.int64
    np.testing.assert_array_equal(item["label"], np.asarray(Ramps(size=(90, 70)).label(1)))


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 7), batch=st.integers(2, 5), start=st.integers(0, 3), steps=st.integers(0, 4))
def test_a_step_is_a_full_batch_and_resuming_changes_none(count: int, batch: int, start: int, steps: int) -> None:
    frames = TargetFrames(Ramps(count), size=SIZE, flip=True, seed=3)

    def batches(first: int) -> list[dict]:
        return list(draw_loader(frames, count, batch_size=batch, seed=3, start=first, stop=start + steps))

    whole, resumed = batches(0), batches(start)
    assert len(whole) == start + steps
    assert len(resumed) == steps
    assert all(len(step["image"]) == batch for step in whole)
    for before, after in zip(whole[start:], resumed, strict=True):
        assert before["name"] == after["name"]
        assert torch.equal(before["image"], after["image"])
    if steps * batch >= count and start == 0:
        assert Counter(name for step in whole for name in step["name"]).keys() == {f"ramp_{i}" for i in range(count)}


def test_drawing_leaves_every_random_state_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    # a GPU's generators are seeded by torch.manual_seed and not given back by fork_rng(devices=[])
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("drawing seeds the GPU"))
    ramps = Ramps()
    for frames in (TargetFrames(ramps, size=SIZE, flip=True, seed=0), training(ramps, flip=True, jitter=0.2)):
        for _ in draw_loader(frames, len(ramps), batch_size=2, seed=0, start=0, stop=3):
            pass
    assert torch.equal(torch.get_rng_state(), before)
