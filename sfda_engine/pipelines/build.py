"""From a configuration to the things a run needs: a source segmenter that fits, a run folder, an accelerator."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin, GradScalerKwargs
from torch import nn

from sfda_engine.config.loader import resolve_weights
from sfda_engine.config.schema import Config, ModelConfig
from sfda_engine.data.classes import ClassSet, class_set, generic_classes
from sfda_engine.distributed.collectives import decided_by_main, join, launched
from sfda_engine.errors import UserError
from sfda_engine.files import outward_link
from sfda_engine.models import build_segmenter
from sfda_engine.models.backbone import ENCODERS, load_backbone
from sfda_engine.models.preprocess import Normalization
from sfda_engine.models.weights import WeightsInfo, build_from_weights, read_weights
from sfda_engine.run_folder.lock import hold

log = logging.getLogger(__name__)


def load_segmenter(config: ModelConfig) -> tuple[nn.Module, WeightsInfo]:
    """Build and load the segmenter that `config.weights` holds; what the file does not say, the config must.

    Raises UserError where file and config contradict each other or too little is known.
    """
    if config.weights is None:
        raise UserError("no weights given; name the source model with --model.weights FILE")
    path = resolve_weights(config.weights)
    classes = class_set(config.classes) if config.classes else None
    foreign = read_weights(path)[1] is None
    num_classes = config.num_classes or (len(classes.names) if classes and foreign else None)
    model, info = build_from_weights(path, config.arch, num_classes, config.feature_layer)
    return model, complete_info(info, config, classes, foreign=foreign)


def fresh_segmenter(info: WeightsInfo, config: ModelConfig) -> nn.Module:
    """A network of the described kind that knows nothing yet, but ImageNet where `config.backbone_weights` is given."""
    model = build_segmenter(info.arch, info.num_classes, info.feature_layer)
    if config.backbone_weights is not None:
        load_backbone(model, config.backbone_weights, download=config.download)
    elif type(model) in ENCODERS:
        log.warning(
            "model.backbone_weights is null: the encoder of %s starts from random weights. The paper starts from "
            "ImageNet (--model.backbone_weights imagenet); without it the model will be much weaker",
            info.arch,
        )
    return model


def complete_info(info: WeightsInfo, config: ModelConfig, classes: ClassSet | None, *, foreign: bool) -> WeightsInfo:
    """Fill in class names, palette and normalization from the config; a file's own word must not be contradicted."""
    if classes is not None and len(classes.names) != info.num_classes:
        raise UserError(
            f"model.classes {classes.name} has {len(classes.names)} classes, the model has {info.num_classes}"
        )
    if not info.class_names or (classes is not None and foreign):
        classes = classes or generic_classes(info.num_classes)
        info = dataclasses.replace(info, class_names=classes.names, palette=classes.palette)
    if config.normalization is not None:
        stated = Normalization(**dataclasses.asdict(config.normalization))
        if not foreign and stated != info.normalization:
            raise UserError(
                f"model.normalization {stated} differs from the weights' own {info.normalization}; leave it null"
            )
        info = dataclasses.replace(info, normalization=stated)
    elif foreign:
        log.warning("weights say no input normalization; ImageNet's is assumed (set model.normalization)")
    return info


@torch.no_grad()
def check_forward(model: nn.Module, size: tuple[int, int]) -> None:
    """Run a model (put in eval mode) on one empty frame of `size` (width, height), before anything is written.

    Raises UserError where it fails, as a user module may.
    """
    try:
        model.eval()(torch.zeros(1, 3, size[1], size[0]))
    except (RuntimeError, ValueError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"the network fails on a frame of {size[0]}x{size[1]} ({first}); try another size") from error


def run_folder(config: Config) -> Path:
    """The folder of this run, created by the main process for all.

    A named one must be empty or absent unless `run.resume`. Raises UserError where it is not, or where it cannot be
    written or seen.
    """
    join()
    folder = decided_by_main(lambda: _new_folder(config))
    if not folder.is_dir():
        raise UserError(
            f"run.output {folder} is not to be seen here, only by the main process; name a folder with --run.output "
            "that all machines share"
        )
    return folder


def check_output(config: Config) -> Path:
    """The folder that `run_folder` will take, looked at alone. Raises UserError where it is in use, or not named."""
    named = config.run.output is not None
    folder = (
        Path(config.run.output)
        if config.run.output
        else Path("runs") / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    )
    folder = folder.expanduser()
    if config.run.resume and not named:
        raise UserError("run.resume needs the run folder to continue: name it with --run.output FOLDER")
    if named and not config.run.resume and _in_use(folder):
        raise UserError(f"run.output {folder} exists and is not empty; name another folder, or add --run.resume true")
    return folder


def _new_folder(config: Config) -> Path:
    folder = make_folder(check_output(config))
    if (link := outward_link(folder)) is not None:
        raise UserError(f"{link} in run.output leads to {link.resolve()}, outside it; remove the link, or move the run")
    hold(folder)
    return folder


def _in_use(path: Path) -> bool:
    try:
        return path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError:
        return False  # make_folder says what is wrong with a place that may not be looked at


def make_folder(folder: Path) -> Path:
    """Create `run.output`, with its parents, or raise UserError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run.output {folder} cannot be created ({error.strerror}); choose a writable place") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"run.output {folder} is not writable; choose another place")
    return folder


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """`make_folder`; a folder that was made here is removed again where the block fails before it writes anything."""
    existed = folder.exists()
    make_folder(folder)
    try:
        yield folder
    except BaseException:
        if not existed:
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise


def end_trackers(accelerator: Accelerator) -> None:
    """`Accelerator.end_training` without parting from the other processes: a script may have more to do."""
    for tracker in accelerator.trackers:
        tracker.finish()


def precision(config: Config) -> str:
    """`run.mixed_precision`, or what the launcher says where it is null. Raises UserError for fp16 on a CPU."""
    chosen = config.run.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if chosen == "fp16" and not torch.cuda.is_available():
        raise UserError("mixed precision fp16 needs a GPU; use bf16 or no on a CPU (--run.mixed_precision bf16)")
    return chosen


def check_share(batch_size: int, key: str) -> None:
    """UserError where the processes that were launched cannot have equal shares of a batch."""
    if batch_size % launched():
        fitting = -(-batch_size // launched()) * launched()
        raise UserError(
            f"{key} {batch_size} cannot be shared equally by {launched()} processes; it is the global batch, over all "
            f"of them: make it a multiple, as --{key} {fitting}, or launch fewer"
        )


def make_accelerator(config: Config, folder: Path | None) -> Accelerator:
    """Accelerate owns device, precision, accumulation and tracking. Raises UserError as `precision` does."""
    join()
    chosen = precision(config)
    launchers = os.environ.get("ACCELERATE_MIXED_PRECISION", chosen)
    if chosen != launchers:
        log.warning("run.mixed_precision %s wins over the launcher's %s", chosen, launchers)
    if not dist.is_initialized():
        # a second run in one process (Python API) may want another precision
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    accelerator = Accelerator(
        mixed_precision=chosen,
        # not with the loader: it has ended before the last step's first batch is used
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.run.gradient_accumulation, sync_with_dataloader=False
        ),
        dataloader_config=DataLoaderConfiguration(split_batches=True),
        log_with=config.run.log_with if folder is not None and config.run.log_with != "none" else None,
        project_dir=str(folder) if folder is not None else None,
        kwargs_handlers=[GradScalerKwargs(enabled=False)],  # every update scales its own loss
    )
    if not accelerator.is_main_process:
        logging.getLogger("sfda_engine").setLevel(logging.ERROR)  # the main process has said it
    return accelerator
