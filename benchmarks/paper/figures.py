"""Figures 6 and 7: predictions on target frames, and synthetic samples with what the source model sees in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.common.plot import save
from benchmarks.paper.jobs import Run, run_config
from benchmarks.paper.options import Options
from benchmarks.paper.outcomes import Outcome
from benchmarks.paper.sources import Training, source_weights
from benchmarks.paper.tables import Cell, Exhibit, heading
from sfda_engine.config.schema import ModelConfig
from sfda_engine.data.classes import colorize
from sfda_engine.data.datasets import open_evaluate
from sfda_engine.data.images import resize, stated, to_float_tensor
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.segmenter import upsample
from sfda_engine.pipelines.networks import load_segmenter

FRAMES = 4
WITHOUT = {"BNS+DAD": "", "BNS": ", without DAD", "DAD": ", without BNS"}
"""Columns of Table 4 as Figure 7 has them."""

Picture = NDArray[np.uint8]


def draw_qualitative(path: Path, exhibit: Exhibit, found: Sequence[Outcome], options: Options) -> None:
    """Figure 6: a row a frame of the evaluation split; the frame, the truth, then each method, seed by the first."""
    shown = _first_seed(exhibit, found)
    rows: list[list[Picture]] = []
    for outcome in shown:
        config = run_config(Run(outcome.cell.job, outcome.seed), options)
        network, info = load_segmenter(ModelConfig(weights=str(outcome.folder / "adapted.safetensors")))
        assert config.evaluate is not None
        size = stated(config.target.size)
        assert size is not None  # every domain states it
        labelled = open_evaluate(config.evaluate, class_names=info.class_names, size=size)
        chosen = np.linspace(0, len(labelled) - 1, min(FRAMES, len(labelled))).round().astype(int).tolist()
        frames = [resize(labelled.image(index), size) for index in chosen]
        if not rows:
            truths = [np.asarray(labelled.label(index).resize(size, 0)) for index in chosen]
            rows = [
                [np.asarray(frame), colorize(truth, info.palette)] for frame, truth in zip(frames, truths, strict=True)
            ]
        images = Preprocess(info.normalization, info.exposure)(torch.stack([to_float_tensor(one) for one in frames]))
        for row, labels in zip(rows, predict(network, images), strict=True):
            row.append(colorize(labels, info.palette))
    names = [f"{o.cell.row}\n{o.score['miou']:.1f} mIoU" for o in shown]
    _grid(path, heading(exhibit), ["frame", "truth", *names], rows)


def draw_synthetic(path: Path, exhibit: Exhibit, found: Sequence[Outcome], options: Options) -> None:
    """Figure 7: a row a sample; for the full generator and those without a term, the sample and its prediction."""
    titles: list[str] = []
    columns: list[list[Picture]] = []
    for column, without in WITHOUT.items():
        for outcome in _first_seed(exhibit, found):
            if outcome.cell.column != column:
                continue
            job = outcome.cell.job
            weights = source_weights(Training(job.task, job.network), options)
            source, info = load_segmenter(ModelConfig(weights=weights))
            samples = load_file(outcome.folder / "synthetic.safetensors")["synthetic"]
            titles += [f"sample{without}", f"S~ on it{without}"]
            columns += [as_pictures(samples), [colorize(labels, info.palette) for labels in predict(source, samples)]]
    _grid(path, heading(exhibit), titles, [list(row) for row in zip(*columns, strict=True)])


@torch.no_grad()
def predict(network: nn.Module, images: Tensor) -> list[Picture]:
    """Labels (H, W) uint8 of normalized images (B, 3, H, W), on a CPU, image by image."""
    network.eval()
    size = (images.shape[-2], images.shape[-1])
    return [upsample(network(one[None]).logits.float(), size).argmax(1)[0].byte().numpy() for one in images]


def as_pictures(samples: Tensor) -> list[Picture]:
    """Samples (B, 3, h, w) in the network's normalized space, each stretched to 0..255: (h, w, 3) uint8."""
    low, high = samples.amin((1, 2, 3), keepdim=True), samples.amax((1, 2, 3), keepdim=True)
    stretched = (samples - low) / (high - low).clamp_min(1e-6)
    return list(stretched.mul(255).byte().permute(0, 2, 3, 1).numpy())


def _first_seed(exhibit: Exhibit, found: Sequence[Outcome]) -> list[Outcome]:
    first: dict[Cell, Outcome] = {}
    for outcome in found:
        first.setdefault(outcome.cell, outcome)
    return [first[cell] for cell in exhibit.cells if cell in first]


def _grid(path: Path, title: str, titles: Sequence[str], rows: Sequence[Sequence[Picture]]) -> None:
    height, width = rows[0][0].shape[:2]
    cell = 2.2
    figure = Figure((cell * len(titles), cell * height / width * len(rows) + 1.0), layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, pictures in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
    for axis, name in zip(axes[0], titles, strict=True):
        axis.set_title(name, fontsize=8)
    figure.suptitle(title, fontsize=11)
    save(figure, path, dpi=130)
