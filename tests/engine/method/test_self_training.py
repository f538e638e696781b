"""Self-training in a run: its batches are a function of the seed and the draw, its term moves the student alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch

from sfda_engine.method.objective import Objective
from sfda_engine.method.steps import SelfTraining, adaptation_step, self_training_terms
from sfda_engine.models.norms import batch_norm_layers
from sfda_engine.pipelines.training import Trainer

ON = ("--method.pseudo_label_weight", "1")


def drawn(run: Trainer, start: int, stop: int) -> list[SelfTraining]:
    batches = list(run.self_training("adaptation", start, stop))
    assert all(batch is not None for batch in batches)
    return [batch for batch in batches if batch is not None]


def test_batches_depend_on_seed_and_draw_alone(trainer: Callable[..., Trainer]) -> None:
    run = trainer(*ON)
    whole, tail, other = drawn(run, 0, 6), drawn(run, 4, 6), drawn(trainer(*ON, "--run.seed", "1", folder=False), 4, 6)
    assert len(whole) == 6
    for batch, again, different in zip(whole[4:], tail, other, strict=True):
        assert batch.images.shape == (2, 3, 32, 32)
        assert batch.labels.shape == (2, 32, 32)
        assert batch.labels.dtype == torch.int64
        assert set(batch.labels.unique().tolist()) <= {*range(9), 255}
        assert torch.equal(batch.images, again.images)
        assert torch.equal(batch.labels, again.labels)
        assert not torch.equal(batch.images, different.images)


def test_only_adaptation_steps_are_given_pseudo_labels(trainer: Callable[..., Trainer]) -> None:
    run = trainer(*ON)
    warmup = [batch for _, batches in run.batches("generator_warmup", 0, 2) for batch in batches]
    adaptation = [batch for _, batches in run.batches("adaptation", 0, 2) for batch in batches]
    assert [batch.self_training for batch in warmup] == [None, None]
    assert all(batch.self_training is not None for batch in adaptation)
    plain = trainer(folder=False)
    assert [batch.self_training for _, batches in plain.batches("adaptation", 0, 2) for batch in batches] == [None] * 2


def test_the_term_enters_the_total_by_its_weight(trainer: Callable[..., Trainer]) -> None:
    run = trainer(*ON)
    batch = drawn(run, 0, 1)[0]
    terms = self_training_terms(run.networks, batch, Objective(pseudo_label_weight=0.3))
    assert terms["total"].item() == pytest.approx(0.3 * terms["pseudo_label"].item())
    assert terms["pseudo_label"].item() > 0


def test_self_training_alone_moves_the_student_and_leaves_its_statistics_to_the_target_frames(
    trainer: Callable[..., Trainer],
) -> None:
    run = trainer(*ON)
    networks, images = run.networks, next(run.batches("adaptation", 0, 1))[1][0].images
    alone = Objective(tau=0.5, pseudo_label_weight=1.0, patch_grid=2)
    before = {name: value.clone() for name, value in networks.student.state_dict().items()}
    frozen = {name: value.clone() for name, value in networks.source.state_dict().items()}
    assert adaptation_step_with(run, images, alone, None) == {"student/total"}
    statistics = [layer.running_mean.clone() for layer in batch_norm_layers(networks.student).values()]
    networks.student.load_state_dict(before)
    logged = adaptation_step_with(run, images, alone, drawn(run, 0, 1)[0])
    assert logged == {"student/pseudo_label", "student/total"}
    moved = {name for name, value in networks.student.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name, _ in networks.student.named_parameters()}
    for layer, expected in zip(batch_norm_layers(networks.student).values(), statistics, strict=True):
        assert torch.equal(layer.running_mean, expected)
    assert all(torch.equal(value, frozen[name]) for name, value in networks.source.state_dict().items())


def adaptation_step_with(
    run: Trainer, images: torch.Tensor, objective: Objective, batch: SelfTraining | None
) -> set[str]:
    """The names that one step logs."""
    return set(adaptation_step(run.networks, run.updates, images, [], objective, nullcontext, batch))


def test_a_run_lowers_the_loss_on_its_pseudo_labels(trainer: Callable[..., Trainer]) -> None:
    # the toy moves a quarter of its pixels on the way, which the guard would stop
    run = trainer(*ON, "--run.steps", "40", "--method.lr", "0.05", "--run.log_every", "1", "--method.guard", "false")
    run.run()
    assert run.loop.metrics.path is not None
    losses = [
        float(line.split('"student/pseudo_label": ')[1].split(",")[0])
        for line in run.loop.metrics.path.read_text().splitlines()
        if "student/pseudo_label" in line
    ]
    assert len(losses) == 40
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
