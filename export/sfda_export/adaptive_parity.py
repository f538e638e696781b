"""The parity gate of the self-adapting graph: does its state move as torch moves its running statistics?

Its statistics are compared after K frames of AdaBN, and what the adapted file computes is held to the same gate as the
other graphs: the very file, its state made constant and its logits named as an output.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from sfda_engine.data.images import to_float_tensor
from sfda_engine.models.norms import batch_norm_layers, set_momentum
from sfda_engine.models.preprocess import Preprocess
from sfda_engine.models.weights import WeightsInfo
from sfda_export.adaptive import export_adaptive
from sfda_export.parity import ParityError, Tolerance, card_of, float32_tolerance, gate, open_session
from sfda_export.reference import Frames, engine_logits
from sfda_export.run import Exportable
from sfda_runtime.card import Card
from sfda_runtime.model import FILES, OUTPUTS
from sfda_runtime.state import EPSILON, START_FILE, State, read_start

K = 8
"""Frames of AdaBN before the comparison, one at a time; fewer only where there are fewer."""
MEAN_LIMIT = 1e-4
"""Largest error of a mean, in standard deviations of its channel."""
VAR_LIMIT = 1e-3
"""Largest relative error of a variance."""


@dataclass(frozen=True)
class StateError:
    """The file's state after K frames against torch's in float64; `torch_*`: the same for torch in float32."""

    frames: int
    mean: float
    var: float
    torch_mean: float
    torch_var: float


def add_adaptive(exportable: Exportable, folder: Path, card: Card, batches: Sequence[Frames]) -> dict[str, Any]:
    """Write the self-adapting graph and its start state into `folder`, for the labels graph's `card`.

    Returns its parity card. Raises UserError as `export_adaptive` does and ParityError as `gate_adaptive` does.
    """
    model, info = exportable.model, exportable.info
    export_adaptive(model, info, folder, card)
    return gate_adaptive(
        model, info, folder / FILES["adaptive"], folder / START_FILE, batches, float32_tolerance(model)
    )


def gate_adaptive(
    model: nn.Module, info: WeightsInfo, path: Path, start: Path, batches: Sequence[Frames], tolerance: Tolerance
) -> dict[str, Any]:
    """Hold model_adaptive.onnx at `path`, with its bn_state.npz at `start`, to torch's own BatchNorm update.

    batches: as for `parity.gate`, uint8 (N, H, W, 3); the first K of one frame move the state. Returns the parity
    card. Raises ParityError: the state moves where it must not, or other than torch's, or the adapted logits differ.
    """
    frames = [batch for batch in batches if len(batch) == 1][:K]
    layers = np.load(start)["layers"].tolist()
    state = read_start(start.read_bytes(), start.name)
    check_rest(path, state, frames[0])
    adapted = run_adabn(path, state, frames)
    exact, reference = (adabn(model, info, layers, frames, dtype) for dtype in (torch.float64, torch.float32))
    error = StateError(
        len(frames),
        *state_error(adapted, stored(exact, layers)),
        *state_error(stored(reference, layers), stored(exact, layers)),
    )
    # a NaN is not below the limit either
    if not (error.mean <= MEAN_LIMIT and error.var <= VAR_LIMIT):
        raise ParityError(
            f"{path.name} moves its state other than torch: after {len(frames)} frames means are off by "
            f"{error.mean:.2g} standard deviations (allowed {MEAN_LIMIT:g}), variances by {error.var:.2g} "
            f"(allowed {VAR_LIMIT:g})"
        )
    with tempfile.TemporaryDirectory() as folder:
        frozen = Path(folder) / path.name
        onnx.save(frozen_at(onnx.load(path), adapted), frozen)
        figures = gate(
            engine_logits(reference, info, torch.float32),
            engine_logits(exact, info, torch.float64),
            frozen,
            batches,
            tolerance,
        )
    return {"state": asdict(error), "adapted_logits": card_of(figures, tolerance)}


def check_rest(path: Path, state: State, frame: Frames) -> None:
    """ParityError where a frame moves the state although normalize and update are 0, by a single bit."""
    after = step(open_session(path), state, frame, normalize=0.0, update=0.0)
    if not (np.array_equal(after.mean, state.mean) and np.array_equal(after.var, state.var)):
        raise ParityError(f"{path.name} moves its state although update is 0")


def run_adabn(path: Path, state: State, frames: Sequence[Frames]) -> State:
    """The file's own AdaBN: normalize 1, update 1/k on the k-th frame."""
    session = open_session(path)
    for k, frame in enumerate(frames, start=1):
        state = step(session, state, frame, normalize=1.0, update=1.0 / k)
    return state


def step(session: Any, state: State, frame: Frames, *, normalize: float, update: float) -> State:
    """The state that one frame proposes."""
    weights = {"normalize": np.array([normalize], np.float32), "update": np.array([update], np.float32)}
    feeds = {"frames": frame, "bn_mean": state.mean, "bn_var": state.var, **weights}
    mean, var = session.run(list(OUTPUTS["adaptive"][3:]), feeds)
    return State(mean, var)


@torch.no_grad()
def adabn(
    model: nn.Module, info: WeightsInfo, layers: Sequence[str], frames: Sequence[Frames], dtype: torch.dtype
) -> nn.Module:
    """A copy of the model in `dtype` that torch adapted: the named layers average the statistics of the frames."""
    network = copy.deepcopy(model).to(dtype).eval()
    preprocess = Preprocess(info.normalization, info.exposure).to(dtype)
    set_momentum(network, None)
    for name in layers:
        layer = batch_norm_layers(network)[name].train()
        layer.reset_running_stats()
    for batch in frames:
        network(preprocess(torch.stack([to_float_tensor(Image.fromarray(frame)) for frame in batch]).to(dtype)))
    return network.eval()


def stored(model: nn.Module, layers: Sequence[str]) -> State:
    """The running statistics of the named layers, concatenated, in the model's own precision."""
    found = [batch_norm_layers(model)[name] for name in layers]
    means, variances = [layer.running_mean for layer in found], [layer.running_var for layer in found]
    return State(torch.cat(means).numpy(), torch.cat(variances).numpy())  # type: ignore[arg-type]


def state_error(state: State, truth: State) -> tuple[float, float]:
    """Largest error of the means in standard deviations, and of the variances relative to them."""
    mean = np.abs(state.mean - truth.mean) / np.sqrt(truth.var + EPSILON)
    var = np.abs(state.var - truth.var) / (truth.var + EPSILON)
    return float(mean.max()), float(var.max())


def frozen_at(model: onnx.ModelProto, state: State) -> onnx.ModelProto:
    """The graph with a constant state that no frame moves: frames in, labels and logits out, all nodes as they are."""
    zero = np.zeros(1, np.float32)
    constants = {"bn_mean": state.mean, "bn_var": state.var, "normalize": zero, "update": zero}
    graph = model.graph
    kept = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    # argmax reads the upsampled logits
    source = next(node.input[0] for node in graph.node if node.op_type == "ArgMax")
    graph.node.append(helper.make_node("Identity", [source], ["logits"]))
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "classes", None, None]))
    return model
