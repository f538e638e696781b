"""Second stage of a run: the view to start from, the student under it, its pseudo-labels, and the other networks."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from accelerate.utils import set_seed
from rich.console import Console
from torch import nn

from sfda_engine.data.frame_sample import SampledFrames, spread
from sfda_engine.data.readers import Images
from sfda_engine.distributed.collectives import wait_for_all
from sfda_engine.judge.aside import set_aside
from sfda_engine.method.pseudo_labels import label_target
from sfda_engine.method.steps import Networks
from sfda_engine.method.teaching_views import teaching_views
from sfda_engine.models.discriminator import PatchDiscriminator
from sfda_engine.models.generator import Generator
from sfda_engine.models.norms import batch_norm_layers
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.weights import save_weights
from sfda_engine.pipelines.choosing import choose_view, frames_for_statistics
from sfda_engine.pipelines.inputs import Inputs
from sfda_engine.pipelines.networks import fresh_segmenter
from sfda_engine.pipelines.objective import frames_to_label, synthetic_size
from sfda_engine.run_folder.start import Start, find_start, load_start, save_start
from sfda_engine.views.probabilities import spread_batches
from sfda_engine.views.statistics import Statistics, target_statistics, write_statistics
from sfda_engine.views.view import View


@dataclass(frozen=True)
class Prepared:
    """What training begins with."""

    inputs: Inputs
    """With the exposure, size and share of the view that was chosen."""
    training: Images
    """The frames to train on; the others are kept aside to judge on."""
    networks: Networks
    preprocess: Preprocess
    start: Start


def prepare(inputs: Inputs) -> Prepared:
    """Choose and make the start, or load it where a resumed run has made it before."""
    set_seed(inputs.config.run.seed)
    source = inputs.source.to(inputs.accelerator.device)
    student = copy.deepcopy(source)
    training = frames_to_train_on(inputs)
    start = found_or_made(inputs, student, training)
    set_seed(inputs.config.run.seed)  # one state from here on, whether the start was made or loaded
    inputs = inputs.under(start.view)
    config = inputs.config
    if config.method.student_init == "fresh":
        student = fresh_segmenter(inputs.info, config.model)
    networks = Networks(
        source=source,
        student=student,
        generator=Generator(synthetic_size(config).hw),
        discriminator=PatchDiscriminator(inputs.info.num_classes, config.method.patch_grid**2),
    )
    return Prepared(inputs, training, networks, preprocess_for(inputs, start.view), start)


def frames_to_train_on(inputs: Inputs) -> Images:
    """Frames that are not kept aside, evenly spread where there are more than the run can make use of."""
    free = set_aside(len(inputs.target)).training
    count = frames_to_label(inputs.config, len(free))
    return SampledFrames(inputs.target, tuple(free[place] for place in spread(len(free), count)))


def found_or_made(inputs: Inputs, student: nn.Module, training: Images) -> Start:
    """The start of a resumed run from its folder, of another one made and saved there; `student` becomes it."""
    folder = inputs.folder
    found = find_start(folder) if folder is not None and inputs.config.run.resume else None
    wait_for_all()  # all have looked before one writes
    start = make_start(inputs, student, training) if found is None else load_start(found, student, training)
    if inputs.accelerator.is_main_process:
        tell(start, bool(batch_norm_layers(student)), Console(stderr=True))
    return start


def make_start(inputs: Inputs, student: nn.Module, training: Images) -> Start:
    """The chosen view, `student` under it, and pseudo-labels where the run trains on them; saved in the run folder.

    Written beside it: `start.safetensors`, and `bn_warm_start.safetensors` with the target's BN statistics alone.
    """
    chosen, folder = choose_view(inputs), inputs.folder
    view = chosen.choice.view
    statistics = statistics_under(inputs, inputs.source, view)
    write_statistics(student, inputs.source, statistics, view.share)
    labelled = None
    if inputs.config.method.pseudo_label_weight > 0:
        labelled = label_target(
            inputs.source,
            inputs.info.normalization,
            training,
            teaching_views(view, [score.view for score in chosen.choice.scores]),
            progress=inputs.accelerator.is_main_process,
        )
    start = Start(chosen.choice, chosen.witnesses, labelled)
    if folder is not None and inputs.accelerator.is_main_process:
        info, warm = inputs.under(view).adapted_info, copy.deepcopy(inputs.source)
        write_statistics(warm, inputs.source, statistics, 0.0)
        save_weights(folder / "start.safetensors", student, info)
        save_weights(folder / "bn_warm_start.safetensors", warm, info)
        save_start(folder, student, info, start)  # the last: a resumed run takes it for the sign that all are there
    return start


def preprocess_for(inputs: Inputs, view: View) -> Preprocess:
    return Preprocess(inputs.info.normalization, view.exposure).to(inputs.accelerator.device)


def put_under(inputs: Inputs, student: nn.Module, view: View) -> None:
    """Give a network of the source's layers the BN statistics of a view, by its own weights; all processes do."""
    student.to(inputs.accelerator.device).eval()
    statistics = statistics_under(inputs, student, view) if view.share < 1 else {}
    write_statistics(student, inputs.source, statistics, view.share)


def statistics_under(inputs: Inputs, network: nn.Module, view: View) -> Statistics:
    """The target's BN statistics by the weights of `network`, at the exposure and size of a view."""
    if not batch_norm_layers(network):
        return {}
    frames = frames_for_statistics(inputs.target)
    return target_statistics(network, spread_batches(frames, preprocess_for(inputs, view), view.size))


def tell(start: Start, shared: bool, console: Console) -> None:
    """The view that was chosen, in a line; `shared` = there are BN statistics to choose a share of."""
    view, among = start.view, len(start.witnesses.views)
    statistics = f"{view.share:.0%} of the source's BN statistics" if shared else "no BN statistics in this network"
    console.print(
        f"start: {view.size.width}x{view.size.height}, exposure {view.exposure}, {statistics}; of {among} views",
        highlight=False,
        soft_wrap=True,
    )
