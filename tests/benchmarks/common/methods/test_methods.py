"""Each method moves what it says it moves, on the engine's own draws, and is driven and stopped from outside."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.common.methods import PEERS, engine, run
from benchmarks.common.methods.engine import engine_config, engine_trainer
from benchmarks.common.methods.labelling import class_thresholds, probabilities
from benchmarks.common.methods.run import adapt, open_domain, weights_of
from benchmarks.common.methods.shot import freeze_classifier, label_by_centroids
from benchmarks.common.methods.target import Target, frames, warm_start
from benchmarks.peers.measure import measure
from sfda_engine.config.loader import load_config
from sfda_engine.config.schema import Config, MethodConfig
from sfda_engine.models.norms import batch_norm_layers

Opened = Callable[..., tuple[nn.Module, Target]]

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def moved(source: nn.Module, after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in source.state_dict().items() if not torch.equal(value, after[name])}


def normalization_parameters(network: nn.Module) -> set[str]:
    return {f"{name}.{kind}" for name in batch_norm_layers(network) for kind in ("weight", "bias")}


@pytest.mark.parametrize("name", PEERS)
def test_two_steps_end_to_end(name: str, tiny: Config) -> None:
    row = measure(name, PEERS[name], tiny, "scenes:night", steps=2, seed=0, limit=1000)
    assert row.note == ""
    assert row.steps == (1 if name in ("source_only", "adabn", "sfda_statistics") else 2)
    scores = (row.miou_source, row.miou_bn_warm_start, row.miou_final, row.miou_best)
    assert all(0 <= score <= 100 for score in scores)
    assert row.miou_best >= row.miou_final
    assert row.seconds > 0
    assert "2 steps, 32x32, batch 2, exposure gamma" in row.settings


@pytest.mark.parametrize("name", [name for name, method in PEERS.items() if method.__module__ != engine.__name__])
def test_what_moves(name: str, opened: Opened) -> None:
    source, target = opened()
    before = weights_of(source)
    *_, after = adapt(PEERS[name], source, target, limit=1000).snapshots.values()
    changed = moved(source, after)
    statistics = {key for key in before if key.endswith(STATISTICS)}
    parameters = set(before) - statistics
    assert moved(source, before) == set()  # a method works on a copy
    if name == "source_only":
        assert changed == set()
    elif name in ("adabn", "ubna"):
        assert changed == statistics
    elif name == "tent":
        assert changed == statistics | normalization_parameters(source)
    elif name == "shot":
        assert changed == (parameters | statistics) - {"classifier.weight", "classifier.bias"}
    else:
        assert changed >= parameters


def test_frames_are_those_of_the_trainer(opened: Opened) -> None:
    source, target = opened(steps=3, seed=5)
    own = list(frames(target))
    trainer = engine_trainer(engine_config(target, MethodConfig()), source, target)
    theirs = [batch.images for _, (batch,) in trainer.batches("adaptation", 0, 3)]
    assert len(own) == 3
    assert all(torch.equal(a, b) for a, b in zip(own, theirs, strict=True))
    assert torch.equal(next(frames(target, 2)), theirs[2])


def test_the_engines_row_is_its_trainers_run(opened: Opened) -> None:
    source, target = opened(steps=6)
    driven = adapt(engine.sfda, source, target, limit=1000).snapshots[6]
    shipped = load_config("demo")
    assert (shipped.method.warmup_steps, shipped.run.steps) == (100, 120)
    method = load_config("demo", ["--method.warmup_steps", "5", "--method.guard", "false"]).method
    trainer = engine_trainer(engine_config(target, method), copy.deepcopy(source), target)
    trainer.run()
    trainer.finish_statistics(trainer.networks.student)
    ran = trainer.networks.student.state_dict()
    assert all(torch.equal(value, ran[name]) for name, value in driven.items())


def test_ubna_follows_its_recursion(opened: Opened) -> None:
    source, target = opened(steps=3)
    first = source.low[0]  # convolution, BN, ReLU: its input does not depend on any other statistics
    mean = first[1].running_mean.double().clone()
    for index, images in enumerate(frames(target)):
        momentum = 0.1 * math.exp(-0.08 * index)
        with torch.no_grad():
            mean = (1 - momentum) * mean + momentum * first[0](images).double().mean((0, 2, 3))
    after = adapt(PEERS["ubna"], source, target, limit=1000).snapshots[3]
    torch.testing.assert_close(after["low.0.1.running_mean"].double(), mean, rtol=1e-4, atol=1e-6)


def test_ubna_ends_after_its_fifty_batches(opened: Opened) -> None:
    source, target = opened(steps=60)
    assert adapt(PEERS["ubna"], source, target, limit=1000).steps == 50


def test_thresholds_are_the_sorted_confidences(opened: Opened) -> None:
    source, target = opened()
    warm_start(source, target)
    maps = torch.cat(list(probabilities(source, target)))[..., ::4, ::4]
    confidence, label = (value.flatten().tolist() for value in maps.max(1))
    thresholds = class_thresholds(source, target, 0.2).tolist()
    assert len(thresholds) == 9
    for index, threshold in enumerate(thresholds):
        own = sorted((c for c, k in zip(confidence, label, strict=True) if k == index), reverse=True)
        kept = int(0.2 * len(own))
        assert threshold == (pytest.approx(own[kept - 1]) if kept else 1.0)
    assert sum(threshold < 1 for threshold in thresholds) > 1


def test_centroids_label_every_frame_at_its_own_size(opened: Opened) -> None:
    source, target = opened()
    warm_start(source, target)
    labelled = label_by_centroids(source, target)
    assert len(labelled) == 4
    assert {labelled.label(index).size for index in range(4)} == {(32, 32)}
    agree = [
        (maps.argmax(1)[0].numpy() == labelled.label(index)).mean()
        for index, maps in enumerate(frame for batch in probabilities(source, target) for frame in batch.split(1))
    ]
    assert min(agree) > 0.4  # neither shuffled nor shifted: labels differ from predictions, not altogether


def test_only_the_classifier_is_frozen(opened: Opened) -> None:
    source, _ = opened()
    freeze_classifier(source, 9)
    frozen = {name for name, parameter in source.named_parameters() if not parameter.requires_grad}
    assert frozen == {"classifier.weight", "classifier.bias"}


def test_equal_seeds_give_equal_networks_and_others_do_not(opened: Opened) -> None:
    runs = [adapt(PEERS["cbst"], *opened(seed=seed), limit=1000).snapshots[2] for seed in (0, 0, 1)]
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())
    assert not all(torch.equal(value, runs[2][name]) for name, value in runs[0].items())


def test_labels_are_opened_after_the_last_step_alone(tiny: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    true_open = run.open_evaluate

    def opening(*arguments: Any, **options: Any) -> Any:
        events.append("labels")
        return true_open(*arguments, **options)

    def watched(network: nn.Module, target: Target) -> Iterator[nn.Module]:
        assert not hasattr(target.images, "label")
        for _ in range(target.steps):
            yield network
            events.append("step")

    monkeypatch.setattr(run, "open_evaluate", opening)
    measure("watched", watched, tiny, "scenes:night", steps=3, seed=0, limit=1000)
    assert events == ["step", "step", "step", "labels"]
    assert engine_config(open_domain(tiny, steps=1, seed=0)[2], MethodConfig()).evaluate is None


def counting(network: nn.Module, target: Target) -> Iterator[nn.Module]:
    for step in range(1, target.steps + 1):
        with torch.no_grad():
            network.classifier.bias.fill_(step)
        yield network


def test_snapshots_are_the_quarters_and_keep_their_weights(opened: Opened) -> None:
    source, target = opened(steps=8)
    snapshots = adapt(counting, source, target, limit=1000).snapshots
    assert {step: weights["classifier.bias"][0].item() for step, weights in snapshots.items()} == {
        2: 2,
        4: 4,
        6: 6,
        8: 8,
    }


def test_a_method_is_stopped_at_the_limit_and_the_row_says_so(opened: Opened) -> None:
    adapted = adapt(counting, *opened(steps=8), limit=1e-9)
    assert adapted.steps == 1
    assert adapted.note == "stopped after 0 s at step 1 of 8"
    assert set(adapted.snapshots) == {1}


def test_broken_weights_are_told(opened: Opened) -> None:
    def breaking(network: nn.Module, target: Target) -> Iterator[nn.Module]:
        with torch.no_grad():
            network.classifier.bias.fill_(math.nan)
        yield network

    assert "diverged" in adapt(breaking, *opened(), limit=1000).note
