"""Fourth stage of a run: what ships, judged without labels, and the weights files that say so."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

from torch import nn

from sfda_engine.judge.scores import sample_frames
from sfda_engine.judge.verdict import Judgement, judge
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.weights import WeightsInfo, load_state, read_weights, save_weights
from sfda_engine.pipelines.inputs import Inputs
from sfda_engine.pipelines.training import Trainer


@dataclass(frozen=True)
class Verdict:
    """What `adapted.safetensors` holds; `judgement` None where nothing was judged."""

    network: nn.Module
    info: WeightsInfo
    judgement: Judgement | None


def decide(inputs: Inputs, trainer: Trainer) -> Verdict:
    """Judge the run without labels; write `last.safetensors` and `adapted.safetensors`. All processes judge.

    A student that started fresh is not judged: it is an experiment on what Eq. 12 transfers, and has no BN warm start
    that it would have to beat.
    """
    folder, info = inputs.folder, inputs.adapted_info
    assert folder is not None
    student = inputs.accelerator.unwrap_model(trainer.networks.student)
    trainer.finish_statistics(student)
    if inputs.accelerator.is_main_process:
        save_weights(folder / "last.safetensors", student, info)
    verdict = Verdict(student, info, None)
    if inputs.config.method.student_init != "fresh":
        verdict = judged(inputs, trainer, student)
    if inputs.accelerator.is_main_process:
        save_weights(folder / "adapted.safetensors", verdict.network, verdict.info)
    return verdict


def judged(inputs: Inputs, trainer: Trainer, student: nn.Module) -> Verdict:
    """The verdict on `student`, the last of the snapshots, with BN statistics estimated anew as all of them get."""
    assert inputs.folder is not None
    warm_start = copy.deepcopy(student)
    load_state(warm_start, read_weights(inputs.folder / "bn_warm_start.safetensors")[0], "bn_warm_start")
    last, snapshots = trainer.loop.position.done("adaptation"), {}
    for step, state in trainer.snapshots.taken.items():
        if step != last:
            snapshots[step] = copy.deepcopy(warm_start)
            snapshots[step].load_state_dict(state)
            trainer.finish_statistics(snapshots[step])
    judgement = judge(
        trainer.networks.source,
        warm_start,
        {**snapshots, last: student},
        as_source=Preprocess(inputs.info.normalization, inputs.info.exposure).to(inputs.accelerator.device),
        preprocess=trainer.preprocess,
        frames=sample_frames(inputs.target),
        size=inputs.config.target.size,
    )
    network = copy.deepcopy(student)
    network.load_state_dict(judgement.weights)
    return Verdict(network, dataclasses.replace(inputs.adapted_info, exposure=judgement.exposure), judgement)
