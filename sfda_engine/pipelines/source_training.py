"""Source training: cross-entropy on labelled source frames, the paper's recipe. The only reader of source labels."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import PolynomialLR
from torch.utils.data import DataLoader

from sfda_engine.config.loader import require_data
from sfda_engine.config.schema import Config, EvaluateConfig, SourceConfig
from sfda_engine.data.classes import ClassSet, class_set, generic_classes
from sfda_engine.data.datasets import check_label_folder, default_classes, open_evaluate, open_source
from sfda_engine.data.folder import IGNORE
from sfda_engine.data.images import ImageSize
from sfda_engine.data.loaders import TrainingFrames, draw_loader
from sfda_engine.data.preflight import look_at
from sfda_engine.data.readers import LabelledImages
from sfda_engine.distributed.accelerator import check_share, end_trackers, precision
from sfda_engine.distributed.collectives import copy_from_main, process_index, total
from sfda_engine.distributed.optimizer_step import make_update
from sfda_engine.errors import UserError
from sfda_engine.evaluation.expectation import expectation
from sfda_engine.evaluation.scores import as_json, check_subset, print_scores, scoring_failed
from sfda_engine.evaluation.scoring import evaluate_images
from sfda_engine.files import write_json
from sfda_engine.models.norms import share_statistics
from sfda_engine.models.preprocess import Normalization, Preprocess
from sfda_engine.models.segmenter import check_forward, upsample
from sfda_engine.models.weights import WeightsInfo, save_weights
from sfda_engine.pipelines.inputs import accelerator_for, run_folder_of
from sfda_engine.pipelines.networks import fresh_segmenter
from sfda_engine.pipelines.scoring import deviations
from sfda_engine.run_folder.lock import released_after
from sfda_engine.run_folder.resume import begin, origin_of
from sfda_engine.training.loop import Intervals, Loop, Phase, in_steps

log = logging.getLogger(__name__)


STEPS = 600
MOMENTUM, POLY_POWER = 0.9, 0.9
ZOOM, JITTER = 1.5, 0.15
"""Largest enlargement before the random crop, largest relative change of brightness, contrast and saturation."""


class Batch(NamedTuple):
    """Frames (B, 3, H, W) RGB in [0, 1] and labels (B, H, W) int64, 255 ignored."""

    images: Tensor
    labels: Tensor


@released_after
def train_source(config: Config) -> Path:
    """Train a segmenter on labelled source frames; returns the run folder with source.safetensors.

    Where section `evaluate` names target frames, the trained model is scored on them after the last step; until then
    nothing but the names of these files is looked at, so that no target label can have a say in training.
    Raises UserError for bad input, TrainingError where the loss became NaN.
    """
    precision(config.run.mixed_precision)
    require_data(config, "source")
    source = config.source
    assert source is not None
    check_share(source.batch_size, "source.batch_size")
    info = describe_source(config, source)
    images = open_source(source, class_names=info.class_names)
    validation = None
    if source.val_root is not None or source.val_split is not None:
        validation = open_source(source, class_names=info.class_names, validate=True)
    check_data(config, info, images, *([] if validation is None else [validation]))
    set_seed(config.run.seed)
    model = fresh_segmenter(info, config.model)
    check_forward(model, ImageSize(*source.size))
    folder = run_folder_of(config)
    accelerator = accelerator_for(config, folder)
    begin(config, accelerator, folder, ("run", "model", "source"), origin_of(accelerator, images, None))
    accelerator.init_trackers("tensorboard")
    model = run_training(config, source, accelerator, model, info, images, folder)
    if accelerator.is_main_process:
        save_weights(folder / "source.safetensors", model, info)
    try:
        score(config, validation, ImageSize(*source.size), model, info, accelerator, folder)
    except UserError as error:
        raise scoring_failed(error, folder) from error
    end_trackers(accelerator)
    return folder


def describe_source(config: Config, source: SourceConfig) -> WeightsInfo:
    """What the trained file will say of itself. Raises UserError where the classes or the network are not known."""
    model = config.model
    if model.arch is None:
        raise UserError("no network to train: give --model.arch, for example streetnet or deeplabv3_resnet50")
    name = model.classes or default_classes(source.dataset)
    if name is None and model.num_classes is None:
        raise UserError("the classes are unknown: give --model.classes (a named set) or --model.num_classes")
    classes: ClassSet = class_set(name) if name else generic_classes(model.num_classes or 0)
    if model.num_classes is not None and model.num_classes != len(classes.names):
        raise UserError(
            f"model.num_classes {model.num_classes} contradicts model.classes {name} ({len(classes.names)})"
        )
    stated = model.normalization
    return WeightsInfo(
        arch=model.arch,
        num_classes=len(classes.names),
        class_names=classes.names,
        palette=classes.palette,
        normalization=Normalization() if stated is None else Normalization(**vars(stated)),
        exposure="none" if model.exposure == "auto" else model.exposure,
        feature_layer=model.feature_layer,
        size=ImageSize(*source.size),
        method="train_source",
    )


def check_data(config: Config, info: WeightsInfo, *labelled: LabelledImages) -> None:
    """Raise UserError before anything is written where frames or labels would end the run later.

    Of the target, only the names of files are looked at.
    """
    for images in labelled:
        look_at(images, same_size=True)
    if config.evaluate is not None:
        check_subset(config.evaluate.subset, info.class_names)
    target = target_section(config)
    if target is not None:
        check_label_folder(target, info.class_names)
    elif config.evaluate is not None and config.evaluate.expected_source_miou is not None:
        log.warning(
            "evaluate.root is null: the source model will not be scored on the target, where %.2f mIoU are expected; "
            "--evaluate.root FOLDER does it",
            config.evaluate.expected_source_miou,
        )


def target_section(config: Config) -> EvaluateConfig | None:
    """Section `evaluate` where it says where the target's frames lie; without them it only shapes the validation."""
    section = config.evaluate
    return None if section is None or (section.dataset != "scenes" and section.root is None) else section


def run_training(
    config: Config,
    source: SourceConfig,
    accelerator: Accelerator,
    model: nn.Module,
    info: WeightsInfo,
    images: LabelledImages,
    folder: Path,
) -> nn.Module:
    """SGD with Nesterov momentum and polynomial decay on the cross-entropy of upsampled logits."""
    run = config.run
    steps = run.steps or STEPS
    if run.epochs is not None:
        steps = math.ceil(run.epochs * len(images) / source.batch_size)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=source.lr,
        momentum=MOMENTUM,
        weight_decay=source.weight_decay,
        nesterov=True,
    )
    schedule = PolynomialLR(optimizer, total_iters=steps, power=POLY_POWER)
    copy_from_main(model)
    share_statistics(model)
    if process_index() > 0:
        set_seed(run.seed + process_index())  # dropout differs between shares of a batch
    model = accelerator.prepare_model(model, evaluation_mode=True)  # not wrapped, see `Update`
    update = make_update(accelerator, optimizer)
    preprocess = Preprocess(info.normalization, info.exposure).to(accelerator.device)

    def batches(start: int, stop: int) -> Iterator[tuple[int, list[Batch]]]:
        repeat = run.gradient_accumulation
        loader = source_loader(config, images, start=start * repeat, stop=stop * repeat)
        items = (Batch(item["image"], item["label"]) for item in accelerator.prepare(loader))
        return in_steps(items, start=start, repeat=repeat)

    def step(index: int, batch: Batch) -> dict[str, Tensor]:
        loss = segmentation_loss(model(preprocess(batch.images)).logits, batch.labels)
        update(loss)
        return {"source/cross_entropy": loss.detach()}

    intervals = Intervals(log_every=run.log_every, checkpoint_every=run.checkpoint_every, keep_last=run.keep_last)
    loop = Loop(accelerator, {"source model": model}, schedule, folder=folder, intervals=intervals)
    model.train()
    loop.run([Phase("source", steps, batches, step, schedule)], resume=run.resume)
    return accelerator.unwrap_model(model)


def source_loader(config: Config, images: LabelledImages, *, start: int, stop: int) -> DataLoader:
    """The batches of steps `start` to `stop`, augmented; a function of the seed alone."""
    source, seed = config.source, config.run.seed
    assert source is not None
    frames = TrainingFrames(
        images,
        size=ImageSize(*source.size),
        scale=(1.0, ZOOM if source.augment else 1.0),
        flip=True,
        jitter=JITTER if source.augment else 0.0,
        seed=seed,
    )
    return draw_loader(
        frames,
        len(images),
        batch_size=source.batch_size,
        seed=seed,
        start=start,
        stop=stop,
        num_workers=config.run.num_workers,
    )


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at the labels' size: logits (B, K, h, w), labels int64 (B, H, W) with 255 ignored.

    The mean over the labelled pixels of all processes.
    """
    logits = upsample(logits.float(), (labels.shape[-2], labels.shape[-1]))
    summed = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    summed, count = total(torch.stack([summed, (labels != IGNORE).sum()])).unbind()
    return summed / count


def score(
    config: Config,
    validation: LabelledImages | None,
    size: ImageSize,
    model: nn.Module,
    info: WeightsInfo,
    accelerator: Accelerator,
    folder: Path,
) -> None:
    """Score the trained model on the validation frames, then on the target's, whose labels are opened here first.

    Writes evaluation.json: the validation scores, and the target's under "target", beside the expected ones.
    """
    wanted, target = config.evaluate or EvaluateConfig(), target_section(config)
    opened = {} if validation is None else {"source model": validation}
    if target is not None:
        opened["on the target"] = open_evaluate(target, class_names=info.class_names, size=size)
    scores = {
        title: evaluate_images(model, info, images, size, accelerator, wanted.subset, as_deployed=wanted.as_deployed)
        for title, images in opened.items()
    }
    if not scores or not accelerator.is_main_process:
        return
    content = as_json(scores["source model"]) if validation is not None else {}
    if target is not None:
        result = scores["on the target"]
        content["target"] = as_json(result) | expectation(target.expected_source_miou, result.own_size.miou)
        deviations(target, result.own_size.miou)
    write_json(folder / "evaluation.json", content)
    print_scores(scores, Console())
