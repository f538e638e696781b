"""A user's own network as a segmenter: its output is checked, its features are read by a forward hook."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from sfda_engine.errors import UserError
from sfda_engine.models.feature_layer import deepest_layer, run_once
from sfda_engine.models.outputs import Form, Path, as_logits, check_maps, classes_of, form_of, head_at, main_head
from sfda_engine.models.segmenter import ALIGNMENT, SegmenterOutput


class UserModule(nn.Module):
    """Segmenter around `network`, whose forward returns what `outputs` understands.

    `feature_layer` is the dotted name of the submodule whose (B, C, h', w') output is the features; None = the logits
    stand for them, where a network has no layer that returns a map.
    """

    alignment = ALIGNMENT
    """It may join maps of several strides, as a U-Net does: views of other sizes keep to multiples of this."""

    def __init__(self, network: nn.Module, num_classes: int, feature_layer: str | None, head: Path | None) -> None:
        super().__init__()
        self.network = network
        self.num_classes = num_classes
        self.feature_layer = feature_layer
        self.head = head
        """Path of the main map in what the network returns; None until the first pass of one that takes no noise."""
        self.form: Form = "logits"
        """Whether the network ends with a softmax or a sigmoid: `look_at_output` finds out."""

    def forward(self, images: Tensor) -> SegmenterOutput:
        if self.feature_layer is None:
            logits = self._logits(self.network(images), images)
            return SegmenterOutput(logits, logits)
        captured: list[Any] = []
        layer = self.network.get_submodule(self.feature_layer)
        # Hooked for this call alone: nothing stale survives, and a deep copy hooks its own layer.
        handle = layer.register_forward_hook(lambda module, inputs, output: captured.append(output))
        try:
            output = self.network(images)
        finally:
            handle.remove()
        if not captured:
            raise UserError(f"model.feature_layer '{self.feature_layer}' does not run in the network's forward")
        features = check_maps(captured[-1], f"the output of '{self.feature_layer}'", "name another layer")
        return SegmenterOutput(self._logits(output, images), features)

    def look_at_output(self) -> None:
        """Run the network, its weights loaded, on a frame of noise to see whether it returns probabilities."""
        with suppress(Exception):  # one that takes no frame of noise is tried on the target's size
            trial = run_once(self.network)
            self._find_head(trial.output, trial.frame)

    def _find_head(self, output: Any, images: Tensor) -> Path:
        """Where the main map is, and whether it holds probabilities."""
        path = main_head(self.network, output, images) if self.head is None else self.head
        self.head, self.form = path, form_of(head_at(output, path))
        return path

    def _logits(self, output: Any, images: Tensor) -> Tensor:
        path = self._find_head(output, images) if self.head is None else self.head
        logits = as_logits(head_at(output, path), self.form)
        if logits.shape[1] != self.num_classes:
            raise UserError(
                f"the network returns {logits.shape[1]} classes but was built for {self.num_classes}: "
                "the factory must use its num_classes argument"
            )
        return logits


def build_user_module(arch: str, num_classes: int | None, feature_layer: str | None) -> UserModule:
    """Build the segmenter of `arch` = "module.path:factory"; the factory is called with `num_classes`, or with nothing.

    What is None is found by running the network once. UserError: the module or factory is not there or fails, or
    `feature_layer` names no layer.
    """
    module_name, _, factory_name = arch.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name, None)
    except Exception as error:
        raise UserError(
            f"model.arch '{arch}': cannot import '{module_name}' ({type(error).__name__}: {error}); "
            "run from its folder with python -m, or put that folder on PYTHONPATH"
        ) from error
    if not callable(factory):
        raise UserError(f"model.arch '{arch}': '{module_name}' has no callable '{factory_name}'")
    try:
        network = made(factory, num_classes)
    except Exception as error:
        called = f"{factory_name}({'' if num_classes is None else num_classes})"
        hint = "; give model.num_classes if it has to be told" if num_classes is None else ""
        raise UserError(
            f"model.arch '{arch}': {called} failed ({type(error).__name__}: {error}); "
            f"the factory takes the number of classes and returns a torch.nn.Module{hint}"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(f"model.arch '{arch}': the factory must return a torch.nn.Module, not {type(network).__name__}")
    if feature_layer is not None:
        check_feature_layer(network, arch, feature_layer)
    for layer in network.modules():
        if isinstance(layer, nn.SyncBatchNorm):  # runs on GPUs alone; several processes are `share_statistics`'
            layer.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
    try:
        trial = run_once(network)
    except Exception as error:  # a user's network may raise anything
        if num_classes is not None and feature_layer is not None:
            return UserModule(network, num_classes, feature_layer, None)
        first = next(iter(str(error).splitlines()), "")
        raise UserError(
            f"model.arch '{arch}': the network fails on a frame ({type(error).__name__}: {first})"
        ) from error
    head = main_head(network.eval(), trial.output, trial.frame)
    num_classes = num_classes or classes_of(head_at(trial.output, head))
    return UserModule(network, num_classes, feature_layer or deepest_layer(trial.shapes), head)


def made(factory: Callable[..., Any], num_classes: int | None) -> Any:
    """What a factory makes, for `num_classes` where that is known: told where it asks for it, or where the network that
    it makes unasked has others. What another argument with a default means, nobody knows."""
    if num_classes is None:
        return factory()
    if asks(factory):
        return factory(num_classes)
    network = factory()
    with suppress(Exception):  # one that takes no frame of noise is tried on the target's size
        trial = run_once(network)
        if classes_of(head_at(trial.output, main_head(network.eval(), trial.output, trial.frame))) != num_classes:
            return factory(num_classes)
    return network


def asks(factory: Callable[..., Any]) -> bool:
    """Whether a factory has an argument without a default."""
    try:
        inspect.signature(factory).bind()
    except (TypeError, ValueError):
        return True
    return False


def check_feature_layer(network: nn.Module, arch: str, feature_layer: str) -> None:
    """Raise UserError, listing some layers, unless `feature_layer` names a submodule of `network`."""
    names = [name for name, _ in network.named_modules() if name]
    if feature_layer in names:
        return
    close = difflib.get_close_matches(feature_layer, names)
    shallow = sorted(names, key=lambda name: name.count("."))
    some = ", ".join(dict.fromkeys([*close, *shallow[:10]]))
    raise UserError(
        f"model.feature_layer '{feature_layer}' is not a layer of {arch}: leave it null, or name the encoder's last "
        f"layer, for example one of {some}"
    )
