"""A network whose BatchNorm statistics are inputs and outputs, so that it can follow the light of the day by itself.

Every BatchNorm layer keeps running statistics (m, v). Given a frame's own statistics (mean, var) over its n values,

    it normalizes with   m + normalize * (mean - m),   v + normalize * (var - v)
    and hands back       m + update * (mean - m),      v + update * (var * n / (n - 1) - v)

(normalize, update) = (0, 0) is the network as it is; (1, 1/k) on the k-th frame is AdaBN (Li et al. 2016) as torch
computes it with momentum=None; (1, 0.1) is torch's training mode with momentum 0.1; (a, 0) mixes a frame's statistics
with the stored ones and keeps nothing (alpha-BN, You et al. 2021).
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.models.norms import batch_norm_layers
from sfda_engine.models.weights import WeightsInfo
from sfda_export.graph import DeployGraph
from sfda_export.onnx_file import export_onnx
from sfda_runtime.card import Card
from sfda_runtime.model import FILES, OUTPUTS, STATE_INPUTS
from sfda_runtime.state import START_FILE

LEAST_VALUES = 32
"""A layer that sees fewer values a channel in one frame keeps its stored statistics: its variance would be noise."""


@dataclass(frozen=True)
class LayerSlice:
    """Where one BatchNorm layer stands in the concatenated statistics."""

    name: str
    """Dotted name in the segmenter."""
    offset: int
    channels: int


class Statistics:
    """The statistics of all adapting layers during one pass: the layers read theirs and write the updated ones back.

    A plain object that the layers share, because a module's forward has no place for them.
    """

    def __init__(self, layers: dict[str, _BatchNorm]) -> None:
        channels = [layer.num_features for layer in layers.values()]
        offsets = np.cumsum([0, *channels]).tolist()
        self.slices = tuple(LayerSlice(*entry) for entry in zip(layers, offsets[:-1], channels, strict=True))
        self.start_mean = torch.cat([_buffer(layer.running_mean) for layer in layers.values()])
        self.start_var = torch.cat([_buffer(layer.running_var) for layer in layers.values()])
        self.values: dict[str, tuple[Tensor, Tensor]] = {}
        self.normalize = self.update = torch.zeros(1)

    def arrays(self) -> dict[str, Any]:
        """What bn_state.npz holds: mean and var (C,) float32 of the exported model, layers, offsets."""
        return {
            "mean": self.start_mean.float().numpy(),
            "var": self.start_var.float().numpy(),
            "layers": np.array([entry.name for entry in self.slices]),
            "offsets": np.array([entry.offset for entry in self.slices], np.int64),
        }


def _buffer(values: Tensor | None) -> Tensor:
    assert values is not None  # batch_norm_layers gives those with running statistics alone
    return values.detach().clone()


class AdaptiveBatchNorm(nn.Module):
    """One BatchNorm layer that takes its statistics from `statistics` and leaves the updated ones there."""

    def __init__(self, name: str, layer: _BatchNorm, statistics: Statistics) -> None:
        super().__init__()
        self.name, self.eps, self.statistics = name, layer.eps, statistics
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        others = [0, *range(2, x.ndim)]
        mean, var = self.statistics.values[self.name]
        batch_mean = x.mean(others)
        centered = x - batch_mean.view(1, -1, *[1] * (x.ndim - 2))
        batch_var = (centered * centered).mean(others)
        count = torch.full((1,), x.shape[0] * x[0, 0].numel(), dtype=x.dtype)
        unbiased = batch_var * (count / (count - 1))
        normalize, update = self.statistics.normalize, self.statistics.update
        self.statistics.values[self.name] = mean + update * (batch_mean - mean), var + update * (unbiased - var)
        mean, var = mean + normalize * (batch_mean - mean), var + normalize * (batch_var - var)
        return functional.batch_norm(x, mean, var, self.weight, self.bias, training=False, eps=self.eps)


def make_adaptive(segmenter: nn.Module, size: ImageSize) -> tuple[nn.Module, Statistics]:
    """A copy of `segmenter` whose BatchNorm layers read and write the statistics that come with it.

    Layers that see fewer than LEAST_VALUES values a channel in a frame of `size` (width, height) stay as they are, as
    does the segmenter itself. Raises UserError where no layer is left.
    """
    segmenter = copy.deepcopy(segmenter).eval().requires_grad_(False)
    seen = values_per_channel(segmenter, size)
    layers = {name: layer for name, layer in batch_norm_layers(segmenter).items() if seen.get(name, 0) >= LEAST_VALUES}
    if not layers:
        raise UserError(
            f"no BatchNorm layer sees {LEAST_VALUES} values a channel at {size.width}x{size.height}: nothing could "
            "adapt itself; export without --self-adapting, or at a larger size"
        )
    statistics = Statistics(layers)
    for name, layer in layers.items():
        parent, _, attribute = name.rpartition(".")
        setattr(segmenter.get_submodule(parent), attribute, AdaptiveBatchNorm(name, layer, statistics))
    return segmenter, statistics


@torch.no_grad()
def values_per_channel(segmenter: nn.Module, size: ImageSize) -> dict[str, int]:
    """How many values each BatchNorm layer averages over in one frame of `size` (width, height); absent: never run."""
    seen: dict[str, int] = {}

    def note(name: str, x: Tensor) -> None:
        seen[name] = min(seen.get(name, x.numel()), x.numel() // x.shape[1])

    hooks = [
        layer.register_forward_pre_hook(lambda module, inputs, name=name: note(name, inputs[0]))
        for name, layer in batch_norm_layers(segmenter).items()
    ]
    try:
        parameter = next(segmenter.parameters())
        segmenter(torch.zeros(1, 3, *size.hw, dtype=parameter.dtype, device=parameter.device))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


class AdaptiveGraph(nn.Module):
    """`graph` with the statistics of the segmenter inside it as inputs and outputs.

    forward: frames as `graph` takes them, bn_mean, bn_var (C,), normalize, update (1,) in [0, 1]
    -> the outputs of `graph`, the updated bn_mean, bn_var (C,).
    """

    def __init__(self, graph: nn.Module, statistics: Statistics) -> None:
        super().__init__()
        self.inner, self.statistics = graph, statistics  # an attribute "graph" breaks torch.export

    def forward(
        self, frames: Tensor, bn_mean: Tensor, bn_var: Tensor, normalize: Tensor, update: Tensor
    ) -> tuple[Tensor, ...]:
        held = self.statistics
        sizes = [entry.channels for entry in held.slices]
        parts = zip(held.slices, bn_mean.split(sizes), bn_var.split(sizes), strict=True)
        held.values = {entry.name: (mean, var) for entry, mean, var in parts}
        held.normalize, held.update = normalize, update
        outputs = self.inner(frames)
        means, variances = zip(*held.values.values(), strict=True)
        held.values = {}
        return (*(outputs if isinstance(outputs, tuple) else (outputs,)), torch.cat(means), torch.cat(variances))


def export_adaptive(segmenter: nn.Module, info: WeightsInfo, folder: Path, card: Card) -> None:
    """Write model_adaptive.onnx and bn_state.npz into `folder`.

    card: of the labels graph of the same bundle, whose size and opset are taken. UserError: see `export_onnx` and
    `make_adaptive`.
    """
    adaptive, statistics = make_adaptive(segmenter, ImageSize(*card.size))
    deployed = DeployGraph(adaptive, info.normalization, info.exposure, "diagnostics")
    graph = AdaptiveGraph(deployed, statistics)
    width, height = card.size
    frames = torch.zeros(1 if card.fixed else 2, height, width, 3, dtype=torch.uint8)
    export_onnx(
        graph,
        (frames, statistics.start_mean, statistics.start_var, torch.zeros(1), torch.zeros(1)),
        folder / FILES["adaptive"],
        input_names=("frames", *STATE_INPUTS),
        output_names=OUTPUTS["adaptive"],
        dynamic_shapes=None if card.fixed else ({0: "batch", 1: "height", 2: "width"}, None, None, None, None),
        card=dataclasses.replace(card, graph="adaptive"),
        opset=card.opset,
    )
    np.savez(folder / START_FILE, **statistics.arrays())
