"""Second stage of a run: the BN warm start of the student, its pseudo-labels, and the other networks."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from accelerate.utils import set_seed
from torch import nn

from sfda_engine.distributed.collectives import wait_for_all
from sfda_engine.method.steps import Networks
from sfda_engine.method.teacher import label_target
from sfda_engine.method.warm_start import estimate_on_target
from sfda_engine.models.discriminator import PatchDiscriminator
from sfda_engine.models.generator import Generator
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.weights import save_weights
from sfda_engine.pipelines.inputs import Inputs
from sfda_engine.pipelines.networks import fresh_segmenter
from sfda_engine.pipelines.objective import synthetic_size
from sfda_engine.run_folder.start import Start, find_start, load_start, save_start


@dataclass(frozen=True)
class Prepared:
    """What training begins with."""

    networks: Networks
    preprocess: Preprocess
    start: Start


def prepare(inputs: Inputs) -> Prepared:
    """Make the start, or load it where a resumed run has made it before."""
    config, method = inputs.config, inputs.config.method
    set_seed(config.run.seed)
    source = inputs.source.to(inputs.accelerator.device)
    preprocess = Preprocess(inputs.info.normalization, inputs.adapted_info.exposure).to(inputs.accelerator.device)
    student = copy.deepcopy(source)
    start = found_or_made(inputs, student, preprocess)
    set_seed(config.run.seed)  # one state from here on, whether the start was made or loaded
    if method.student_init == "fresh":
        student = fresh_segmenter(inputs.info, config.model)
    elif method.bn_share == 1:
        student = copy.deepcopy(source)
    width, height = synthetic_size(config)
    networks = Networks(
        source=source,
        student=student,
        generator=Generator((height, width)),
        discriminator=PatchDiscriminator(inputs.info.num_classes, method.patch_grid**2),
    )
    return Prepared(networks, preprocess, start)


def found_or_made(inputs: Inputs, student: nn.Module, preprocess: Preprocess) -> Start:
    """The start of a resumed run from its folder, of another one made and saved there; `student` becomes it."""
    folder = inputs.folder
    found = find_start(folder) if folder is not None and inputs.config.run.resume else None
    wait_for_all()  # all have looked before one writes
    start = make_start(inputs, student, preprocess) if found is None else load_start(found, student, inputs.target)
    if folder is not None and inputs.accelerator.is_main_process:
        if found is None:
            save_start(folder, student, inputs.adapted_info, start)
        save_weights(folder / "bn_warm_start.safetensors", student, inputs.adapted_info)
    return start


def make_start(inputs: Inputs, student: nn.Module, preprocess: Preprocess) -> Start:
    """BN warm start of `student`, in place, and pseudo-labels by it where the run trains on them.

    A run without a warm start of its own (preset literal, a fresh student) has it too, for comparison.
    """
    config, method, accelerator = inputs.config, inputs.config.method, inputs.accelerator
    share = estimate_on_target(
        student,
        inputs.source,
        preprocess,
        inputs.target,
        size=config.target.size,
        batch_size=config.target.batch_size,
        seed=config.run.seed,
        device=accelerator.device,
        share=0.0 if method.bn_share == 1 else method.bn_share,
    )
    if method.pseudo_label_weight == 0:
        return Start(share)
    labelled = label_target(
        student,
        preprocess,
        inputs.target,
        size=config.target.size,
        batch_size=config.target.batch_size,
        device=accelerator.device,
        source=inputs.source,
        source_share=share,
        progress=accelerator.is_main_process,
    )
    return Start(share, labelled)
