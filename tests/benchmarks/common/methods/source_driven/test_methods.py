"""Every source-driven method end to end: steps that change weights by source labels, driven as any other."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from benchmarks.common.methods.run import adapt, weights_of, with_source
from benchmarks.common.methods.source_driven import SOURCE_DRIVEN
from benchmarks.common.methods.source_driven.source import LabelledSource
from benchmarks.common.methods.target import Target
from benchmarks.peers.measure import measure
from sfda_engine.config.schema import Config
from sfda_engine.errors import UserError
from tests.benchmarks.common.methods.source_driven.conftest import Opened, Relabelled


@pytest.mark.parametrize("name", SOURCE_DRIVEN)
def test_two_steps_end_to_end(name: str, tiny: Config) -> None:
    row = measure(name, SOURCE_DRIVEN[name], tiny, "scenes:night", steps=2, seed=0, limit=1000)
    assert (row.source_free, row.note, row.steps) == (False, "", 2)
    assert all(0 <= score <= 100 for score in (row.miou_source, row.miou_final, row.miou_best))
    assert "2 steps, 32x32, batch 2, exposure gamma" in row.settings


@pytest.mark.parametrize("name", SOURCE_DRIVEN)
def test_weights_move_and_one_wrong_label_moves_them_elsewhere(
    name: str, opened: Opened, labelled: LabelledSource
) -> None:
    def ran(frames: LabelledSource) -> dict[str, Tensor]:
        source, target = opened(steps=2)
        before = weights_of(source)
        bound = partial(SOURCE_DRIVEN[name], labelled=frames)
        after = adapt(bound, source, target, limit=1000).snapshots[2]
        assert set(after) == set(before)
        moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
        assert moved >= {key for key, _ in source.named_parameters()}
        return after

    plain, other = ran(labelled), ran(labelled._replace(frames=Relabelled(labelled.frames, {0: 0})))
    assert not torch.equal(other["classifier.weight"], plain["classifier.weight"])


def test_equal_seeds_give_equal_networks_and_others_do_not(opened: Opened, labelled: LabelledSource) -> None:
    bound = partial(SOURCE_DRIVEN["adaptsegnet_multi"], labelled=labelled)
    runs = [adapt(bound, *opened(steps=1, seed=seed), limit=1000) for seed in (0, 0, 1)]
    first, again, another = (run.snapshots[1] for run in runs)
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    assert not torch.equal(first["classifier.weight"], another["classifier.weight"])


def test_a_configuration_without_source_frames_is_refused(tiny: Config) -> None:
    without = dataclasses.replace(tiny, source=None)
    with pytest.raises(UserError, match="no section source"):
        measure("source_cbst", SOURCE_DRIVEN["source_cbst"], without, "scenes:night", steps=1, seed=0, limit=1000)
    row = measure("tent", lambda network, target: iter([network]), without, "night", steps=1, seed=0, limit=1000)
    assert row.source_free


def test_a_bound_method_is_given_the_frames_of_the_source(tiny: Config, opened: Opened) -> None:
    source, target = opened()
    seen: list[int] = []

    def method(network: nn.Module, target: Target, labelled: LabelledSource) -> object:
        seen.extend([len(labelled.frames), labelled.frames.label(0).size[0]])
        assert "day" in labelled.frames.name(0)
        assert labelled.recipe == tiny.source
        return iter([network])

    assert list(with_source(method, tiny, target.info)(source, target)) == [source]  # type: ignore[arg-type]
    assert seen == [4, 32]
