"""What is exported: the weights that a run folder ships, or a lone weights file, with what is known about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from torch import nn

from sfda_engine.config.loader import load_config, resolve_weights
from sfda_engine.config.schema import Config
from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_engine.models.weights import WeightsInfo, sha256_of
from sfda_engine.pipelines.networks import load_segmenter
from sfda_engine.report.reading import read_run
from sfda_export.unpool import size_multiple
from sfda_runtime.card import IGNORE, Card, Precision

SMALLEST = 32
"""Least width and height that an exported graph is meant for."""


@dataclass(frozen=True, kw_only=True)
class Exportable:
    """A loaded model and its origin; the last three fields are None for a lone weights file."""

    model: nn.Module
    info: WeightsInfo
    weights: Path
    config: Config | None = None
    config_path: Path | None = None
    result: dict[str, str] | None = None


def open_run(run: str, overrides: Sequence[str] = ()) -> Exportable:
    """Load the model of a run folder, or of a weights file; package:NAME is a model shipped with the engine.

    overrides: "--model.KEY", VALUE pairs as `evaluate` takes, for weights that do not describe themselves.
    Raises UserError where there is no model, or one that cannot be a graph of labels in uint8.
    """
    folder = Path(run).expanduser()
    if folder.is_dir():
        exportable = _open_folder(folder, overrides)
    else:
        if not run.startswith("package:") and not folder.is_file():
            raise UserError(f"there is no run folder or weights file {run!r}; name one that is there")
        model, info = _load(resolve_weights(run), overrides)
        exportable = Exportable(model=model, info=info, weights=resolve_weights(run))
    if exportable.info.num_classes > IGNORE:
        raise UserError(f"the model has {exportable.info.num_classes} classes; labels in uint8 have room for {IGNORE}")
    exportable.model.eval()
    return exportable


def _open_folder(folder: Path, overrides: Sequence[str]) -> Exportable:
    if not (folder / "result.json").is_file():
        hint = " or name source.safetensors in it" if (folder / "source.safetensors").is_file() else ""
        raise UserError(f"{folder} has no result.json: name the folder of a finished run, or a weights file{hint}")
    result = read_run(folder).result
    weights = folder / "adapted.safetensors"  # whatever the verdict: the run has put there what ships
    model, info = _load(weights, overrides)
    config_path = folder / "config.yaml"
    return Exportable(
        model=model,
        info=info,
        weights=weights,
        config=load_config(config_path),
        config_path=config_path,
        result=result,
    )


def _load(weights: Path, overrides: Sequence[str]) -> tuple[nn.Module, WeightsInfo]:
    config = load_config(overrides=overrides).model
    return load_segmenter(dataclasses.replace(config, weights=str(weights)))


def check_size(size: ImageSize | None, model: nn.Module) -> ImageSize:
    """The size (width, height) that the graph is made for; UserError where it is unknown or does not fit."""
    if size is None:
        raise UserError("the weights do not say what size they were trained at: give it with --size WxH")
    multiple = size_multiple(model)
    if min(size) < SMALLEST:
        raise UserError(f"size {size.width}x{size.height} is too small: width and height must be at least {SMALLEST}")
    if any(value % multiple for value in size):
        near = "x".join(str(max(1, round(value / multiple)) * multiple) for value in size)
        raise UserError(
            f"size {size.width}x{size.height} does not fit the network: width and height must be multiples of "
            f"{multiple}; the nearest is --size {near}"
        )
    return size


def describe(exportable: Exportable, size: ImageSize, *, fixed: bool, precision: Precision = "fp32") -> Card:
    """The card of the labels graph; opset and IR are filled in when they have been emitted."""
    info, result = exportable.info, exportable.result or {}
    return Card(
        precision=precision,
        arch=info.arch,
        classes=info.class_names,
        palette=info.palette,
        size=size,
        fixed=fixed,
        multiple=size_multiple(exportable.model),
        minimum=(SMALLEST, SMALLEST),
        normalization=dataclasses.asdict(info.normalization),
        exposure=info.exposure,
        opset=0,
        ir=0,
        weights_sha256=sha256_of(exportable.weights),
        source_sha256=info.source_sha256,
        method=info.method,
        config_sha256=sha256_of(exportable.config_path) if exportable.config_path else None,
        verdict=result.get("verdict"),
        verdict_basis=result.get("verdict_basis"),
        versions={name: version(name) for name in ("sfda-engine", "torch", "onnx", "onnxscript")},
    )
