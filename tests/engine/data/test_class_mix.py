"""ClassMix: every pixel comes from one of two frames with its own label, half of the donor's classes are pasted."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfda_engine.data.class_mix import class_mix


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.integers(1, 6), st.integers(2, 9), st.integers(0, 999))
def test_pixels_and_labels_travel_together(batch: int, classes: int, side: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (batch, side, side + 1), generator=generator)
    labels[:, 0, 0] = 255
    # the image says which frame and which label a pixel had
    frame = torch.arange(batch).view(-1, 1, 1).expand_as(labels)
    images = torch.stack([frame, labels, frame * 300 + labels], 1).float()
    mixed, mixed_labels = class_mix(images, labels, generator)
    assert torch.equal(mixed[:, 1].long(), mixed_labels)
    assert torch.equal(mixed[:, 2], mixed[:, 0] * 300 + mixed[:, 1])
    for index in range(batch):
        donor = (index - 1) % batch
        pasted = mixed[index, 0].long() == donor
        assert torch.equal(mixed[index, 0].long()[~pasted], frame[index][~pasted])
        given_classes = set(labels[donor][pasted].tolist())
        every_class = set(labels[donor].unique().tolist()) - {255}
        assert len(given_classes) == -(-len(every_class) // 2)
        assert 255 not in given_classes
        # a class is pasted whole or not at all
        assert all(pasted[labels[donor] == one].all() for one in given_classes)


def test_the_generator_decides() -> None:
    images, labels = torch.randn(4, 3, 8, 8), torch.randint(0, 5, (4, 8, 8))
    first, again, other = (class_mix(images, labels, torch.Generator().manual_seed(seed))[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_frames_without_a_label_give_nothing() -> None:
    images, labels = torch.randn(2, 3, 4, 4), torch.full((2, 4, 4), 255)
    mixed, mixed_labels = class_mix(images, labels, torch.Generator())
    assert torch.equal(mixed, images)
    assert torch.equal(mixed_labels, labels)
