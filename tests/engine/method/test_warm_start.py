"""BN statistics on target frames: the share of the source's own, as told and as chosen without labels."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import sfda_engine.method.warm_start as warm_start
from sfda_engine.data.datasets import SceneImages
from sfda_engine.method.warm_start import SHARES, choose_share, estimate_on_target
from sfda_engine.models.norms import batch_norm_layers
from sfda_engine.pipelines.training import Trainer

SIZE = (32, 32)
RISING = [0.5, 0.51, 0.52, 0.53, 0.54, 0.55]
CURVES = {
    # marginal entropy by share, mean IoU between sizes by share, the share that is chosen
    "entropy rises at once": ([1.0, 1.1, 0.2, 0.1, 0.1, 0.1], RISING, 0.0),
    "a valley of entropy": ([1.0, 0.9, 0.8, 0.85, 0.1, 0.1], RISING, 0.2),
    "level counts as a rise": ([1.0, 0.9, 0.9, 0.1, 0.1, 0.1], RISING, 0.1),
    "sizes agree less": ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5], [0.5, 0.52, 0.51, 0.6, 0.7, 0.8], 0.1),
    "sizes agree no more": ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5], [0.5, 0.5, 0.51, 0.6, 0.7, 0.8], 0.0),
    "better to the end": ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5], RISING, 0.5),
}


@pytest.mark.parametrize("name", CURVES)
def test_the_share_rises_while_both_scores_say_so(
    name: str, trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores by share: the network handed over is known by how far its statistics are moved."""
    run = trainer()
    entropies, overlaps, expected = CURVES[name]
    student, source = copy.deepcopy(run.networks.source), run.networks.source
    for layer in batch_norm_layers(student).values():
        layer.running_mean.zero_()
    for layer in batch_norm_layers(source).values():
        layer.running_mean.fill_(1.0)

    def scores(network: nn.Module, *_: object) -> dict[str, float]:
        share = float(next(iter(batch_norm_layers(network).values())).running_mean[0])
        index = SHARES.index(round(share, 1))
        return {"marginal_entropy": entropies[index], "iou_scale": overlaps[index]}

    monkeypatch.setattr(warm_start, "score", scores)
    assert choose_share(student, source, run.preprocess, run.target, SIZE) == pytest.approx(expected)
    assert float(next(iter(batch_norm_layers(student).values())).running_mean.abs().max()) == 0


def estimated_by(run: Trainer, student: nn.Module, *, share: float) -> float:
    """`estimate_on_target` of a student under the settings of a run."""
    target = run.config.target
    return estimate_on_target(
        student,
        run.networks.source,
        run.preprocess,
        run.target,
        size=target.size,
        batch_size=target.batch_size,
        seed=run.config.run.seed,
        device=run.accelerator.device,
        share=share,
    )


def test_statistics_are_mixed_by_the_share_that_is_told(trainer: Callable[..., Trainer]) -> None:
    run = trainer()

    source = run.networks.source

    def estimated(share: float) -> dict[str, torch.Tensor]:
        student = copy.deepcopy(source)
        told = estimated_by(run, student, share=share)
        assert told == share
        return {name: buffer for name, buffer in student.named_buffers() if "running" in name}

    plain, mixed, source_statistics = estimated(0.0), estimated(0.25), dict(source.named_buffers())
    for name, value in mixed.items():
        torch.testing.assert_close(value, 0.75 * plain[name] + 0.25 * source_statistics[name])
        assert not torch.equal(value, plain[name])


def test_frames_without_a_shift_keep_what_the_source_knows(trainer: Callable[..., Trainer]) -> None:
    """A student with noise for statistics is better with a share of the source's: no label tells so, the views do."""
    run = trainer()
    source = run.networks.source
    student = copy.deepcopy(source)
    generator = torch.Generator().manual_seed(0)
    for layer in batch_norm_layers(student).values():
        layer.running_var.mul_(torch.rand(layer.running_var.shape, generator=generator) * 8 + 1)
    day = SceneImages("day", purpose="target", size=SIZE, frames=8)
    assert choose_share(student, source, run.preprocess, day, SIZE) > 0


def test_a_run_begins_and_ends_with_its_share(trainer: Callable[..., Trainer]) -> None:
    """Statistics after the last step are those of the last weights, mixed by the share of the first."""
    run = trainer("--method.bn_share", "0.3", "--method.target_bn", "running")
    assert run.start.source_share == 0.3
    run.run()
    left = copy.deepcopy(run.networks.student)
    run.finish_statistics(run.networks.student)
    estimated_by(run, left, share=0.3)
    for name, value in run.networks.student.state_dict().items():
        torch.testing.assert_close(value, left.state_dict()[name])


def test_statistics_that_the_target_frames_wrote_stay(trainer: Callable[..., Trainer]) -> None:
    run = trainer()
    run.run()
    before = copy.deepcopy(run.networks.student.state_dict())
    run.finish_statistics(run.networks.student)
    assert all(torch.equal(value, before[name]) for name, value in run.networks.student.state_dict().items())
