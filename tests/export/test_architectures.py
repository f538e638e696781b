"""The large architectures leave as the same function: random weights, batch norm fitted to scenes, a small size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from sfda_engine.data.classes import generic_classes
from sfda_engine.data.images import ImageSize
from sfda_engine.data.scenes.render import render_scene
from sfda_engine.models import build_segmenter
from sfda_engine.models.norms import reestimate_statistics
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.weights import WeightsInfo
from sfda_export.frames import gate_batches, second_size
from sfda_export.graph import OUTPUTS, DeployGraph, to_images
from sfda_export.onnx_file import export_onnx
from sfda_export.parity import float32_tolerance, gate
from sfda_export.reference import engine_logits
from sfda_export.run import Exportable, describe
from sfda_export.unpool import size_multiple

SIZE = ImageSize(96, 64)


def frames(count: int) -> list[Image.Image]:
    return [Image.fromarray(render_scene("day", seed, SIZE).image) for seed in range(count)]


def calibrated(arch: str) -> tuple[nn.Module, WeightsInfo]:
    classes = generic_classes(5)
    info = WeightsInfo(arch=arch, num_classes=5, class_names=classes.names, palette=classes.palette)
    torch.manual_seed(0)
    network = build_segmenter(arch, 5).eval()
    batch = to_images(torch.from_numpy(np.stack([np.asarray(frame) for frame in frames(2)])))
    reestimate_statistics(network, [Preprocess(info.normalization)(batch)])
    return network, info


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["lraspp_mobilenet_v3_large", "segnet_vgg16", "deeplabv3_resnet50"])
def test_large_architectures(arch: str, tmp_path: Path) -> None:
    model, info = calibrated(arch)
    path = tmp_path / "model_logits.onnx"
    multiple = size_multiple(model)
    card = describe(Exportable(model=model, info=info, weights=Path(__file__)), SIZE, fixed=False)
    export_onnx(
        DeployGraph(model, info.normalization, info.exposure, "logits"),
        (torch.zeros(2, SIZE[1], SIZE[0], 3, dtype=torch.uint8),),
        path,
        input_names=["frames"],
        output_names=OUTPUTS["logits"],
        dynamic_shapes=({0: "batch", 1: "height", 2: "width"},),
        card=card,
    )
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert card.multiple == (32 if arch == "segnet_vgg16" else 1)
    nodes = onnx.load(path).graph.node
    assert not [
        node for node in nodes if "Scatter" in node.op_type or (node.op_type == "MaxPool" and len(node.output) > 1)
    ]
    batches = gate_batches(frames(4), second_size(SIZE, multiple, 32))
    exact = engine_logits(model, info, torch.float64)
    figures = gate(engine_logits(model, info, torch.float32), exact, path, batches, float32_tolerance(model))
    assert figures.noise_p50 > 0.1
