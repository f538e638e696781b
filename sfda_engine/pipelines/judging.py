"""Fourth stage of a run: what ships, judged without labels, and the weights files that say so."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from torch import nn

from sfda_engine.judge.aside import set_aside
from sfda_engine.judge.verdict import SOURCE, START, Defendant, Verdict, judge
from sfda_engine.models.weights import WeightsInfo, load_state, read_weights, save_weights
from sfda_engine.pipelines.training import Trainer
from sfda_engine.views.view import untouched


@dataclass(frozen=True)
class Shipped:
    """What `adapted.safetensors` holds; `verdict` None where nothing was judged."""

    network: nn.Module
    info: WeightsInfo
    verdict: Verdict | None


def decide(trainer: Trainer) -> Shipped:
    """Judge the run without labels; write `last.safetensors` and `adapted.safetensors`. All processes judge.

    A student that started fresh is not judged: it is an experiment on what Eq. 12 transfers.
    """
    inputs = trainer.inputs
    folder, info = inputs.folder, inputs.adapted_info
    assert folder is not None
    student = inputs.accelerator.unwrap_model(trainer.networks.student)
    trainer.finish_statistics(student)
    if inputs.accelerator.is_main_process:
        save_weights(folder / "last.safetensors", student, info)
    shipped = Shipped(student, info, None) if trainer.objective.fresh else judged(trainer, student)
    if inputs.accelerator.is_main_process:
        save_weights(folder / "adapted.safetensors", shipped.network, shipped.info)
    return shipped


def judged(trainer: Trainer, student: nn.Module) -> Shipped:
    """The verdict on source, start and snapshots; `student` is the last of these. Each is judged as it would ship."""
    inputs, view = trainer.inputs, trainer.start.view
    assert inputs.folder is not None
    start = copy.deepcopy(student)
    load_state(start, read_weights(inputs.folder / "start.safetensors")[0], "start")
    models = {
        SOURCE: Defendant(trainer.networks.source, untouched(view, inputs.info.exposure)),
        START: Defendant(start, view),
    }
    last = trainer.loop.position.done("adaptation")
    for step, state in trainer.snapshots.taken.items():
        if step != last:
            network = copy.deepcopy(start)
            network.load_state_dict(state)
            trainer.finish_statistics(network)
            models[str(step)] = Defendant(network, view)
    models[str(last)] = Defendant(student, view)
    frames = [inputs.target.image(index) for index in set_aside(len(inputs.target)).judged]
    verdict = judge(models, inputs.info.normalization, frames, trainer.start.witnesses)
    chosen = models[verdict.model]
    return Shipped(chosen.network, replace(inputs.adapted_info, exposure=chosen.view.exposure), verdict)
