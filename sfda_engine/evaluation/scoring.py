"""Score a segmenter on labelled frames: the only reader of target labels."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_confusion_matrix

from sfda_engine.data.folder import IGNORE
from sfda_engine.data.images import ImageSize, resize_labels
from sfda_engine.data.loaders import EvaluationFrames, LabelledItem
from sfda_engine.data.readers import LabelledImages
from sfda_engine.distributed.collectives import processes
from sfda_engine.evaluation.scores import Evaluation, scores_of
from sfda_engine.evaluation.sliding_window import Window, window_logits
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.segmenter import upsample
from sfda_engine.models.weights import WeightsInfo

BATCH = 8
"""Frames that are scored at a time, by all processes together; rounded up to a share for each."""


def collate(items: list[LabelledItem]) -> dict[str, Any]:
    """Images stacked; labels kept as a list, since every frame may have a size of its own."""
    return {
        "images": torch.stack([item["image"] for item in items]),
        "labels": [item["label"] for item in items],
    }


@torch.no_grad()
def confusion_counts(
    model: nn.Module,
    preprocess: Preprocess,
    loader: DataLoader,
    classes: int,
    accelerator: Accelerator,
    *,
    as_deployed: bool = False,
    window: Window | None = None,
) -> tuple[Tensor, int]:
    """Confusion counts (2, K, K) int64 at the labels' own size and at the images', and the number of frames.

    `as_deployed` appends a third one, see `Evaluation`. Counts are kept per image and gathered over processes, so that
    padding of the last batch is not counted twice.
    """
    model.eval()
    totals = torch.zeros(2 + as_deployed, classes, classes, dtype=torch.int64)
    frames = 0
    for batch in loader:
        images, labels = batch["images"], batch["labels"]
        with accelerator.autocast():
            seen = preprocess(images)
            logits = window_logits(model, seen, window) if window else model(seen).logits.float()
        counts = torch.stack(
            [
                _image_counts(one[None], label, images.shape[-2:], classes, as_deployed)
                for one, label in zip(logits, labels, strict=True)
            ]
        )
        gathered = accelerator.gather_for_metrics(counts)
        totals += gathered.sum(0).cpu()
        frames += len(gathered)
    return totals, frames


def _image_counts(logits: Tensor, label: Tensor, size: torch.Size, classes: int, as_deployed: bool) -> Tensor:
    label = label.to(logits.device)
    small = functional.interpolate(label[None, None].float(), tuple(size), mode="nearest-exact")[0, 0].long()
    own, seen = (upsample(logits, (truth.shape[0], truth.shape[1])).argmax(1)[0] for truth in (label, small))
    pairs = [(own, label), (seen, small)]
    if as_deployed:
        pairs.append((resize_labels(seen, ImageSize(label.shape[1], label.shape[0])), label))
    return torch.stack(
        [
            multiclass_confusion_matrix(prediction, truth, classes, ignore_index=IGNORE, validate_args=False)
            for prediction, truth in pairs
        ]
    )


def evaluate_images(
    model: nn.Module,
    info: WeightsInfo,
    images: LabelledImages,
    size: ImageSize,
    accelerator: Accelerator,
    subset: tuple[str, ...] | None = None,
    *,
    as_deployed: bool = False,
    window: Window | None = None,
) -> Evaluation:
    """Score a segmenter on an opened data set, preprocessed as `info` says, by sliding windows where one is given."""
    batch_size = -(-BATCH // processes()) * processes()
    loader = DataLoader(EvaluationFrames(images, size=size), batch_size=batch_size, collate_fn=collate)
    preprocess = Preprocess(info.normalization, info.exposure).to(accelerator.device)
    model, loader = model.to(accelerator.device), accelerator.prepare(loader)
    counts, frames = confusion_counts(
        model, preprocess, loader, info.num_classes, accelerator, as_deployed=as_deployed, window=window
    )
    own, training, *deployed = (scores_of(confusion, info.class_names, subset) for confusion in counts)
    return Evaluation(own, training, frames, *deployed)
