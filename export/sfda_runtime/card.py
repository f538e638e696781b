"""What a model file says about itself: the JSON under the key `sfda` of its ONNX metadata, and in the manifest."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sfda_runtime.errors import ModelError

METADATA_KEY = "sfda"
FORMAT = 1
IGNORE = 255

Graph = Literal["labels", "diagnostics", "logits", "adaptive"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """Facts of one exported model. Frames are uint8 (N, H, W, 3) RGB, labels uint8 (N, H, W), 255 = ignore."""

    format: int = FORMAT
    """Version of this description; a runtime refuses one that it does not know."""
    graph: Graph = "labels"
    """Outputs: labels | + confidence, entropy (uint8) | + logits (float32) | diagnostics with BN state in and out."""
    precision: Precision = "fp32"
    arch: str
    """The engine's name of the architecture, or "module.path:factory"."""
    classes: tuple[str, ...]
    """One name a class; the label value is the index."""
    palette: tuple[tuple[int, int, int], ...]
    """One RGB color (0..255) a class."""
    size: tuple[int, int]
    """(width, height) that the model was adapted at; frames are resized to it before they reach the graph."""
    fixed: bool = False
    """True: the graph takes no other size than `size`, one frame at a time."""
    multiple: int = 1
    """Height and width must be multiples of this."""
    minimum: tuple[int, int] = (32, 32)
    """Smallest (width, height) that the graph is meant for."""
    resize: str = "pillow-bilinear"
    """How a frame is brought to `size`; labels go back to the frame's size by nearest neighbor."""
    normalization: Mapping[str, Any]
    """mean, std, channel_order, value_range; inside the graph, stated for the reader."""
    exposure: str = "none"
    """none | gamma; inside the graph."""
    opset: int
    ir: int
    """Opset of the default domain and IR version, as emitted."""
    weights_sha256: str
    """Hash of the weights file that was exported."""
    source_sha256: str | None = None
    """Hash of the source weights that it was adapted from; None for a source model."""
    method: str | None = None
    config_sha256: str | None = None
    """Hash of the run's config.yaml; None where a lone weights file was exported."""
    verdict: str | None = None
    verdict_basis: str | None = None
    """As in the run's result.json."""
    versions: Mapping[str, str]
    """Packages that made the file."""


def to_json(card: Card) -> str:
    """The description as one line of strict JSON; equal cards give equal text."""
    return json.dumps(dataclasses.asdict(card), sort_keys=True, allow_nan=False)


def from_json(text: str, origin: str) -> Card:
    """Read a description. ModelError, naming `origin`, where it is no description of a known format."""
    try:
        fields = json.loads(text)
        if fields["format"] != FORMAT:
            raise ModelError(
                f"{origin}: its description has format {fields['format']}, this runtime reads format {FORMAT}; "
                "use the sfda-runtime that came with the exporter, or export again"
            )
        tuples: dict[str, Any] = {
            "classes": tuple(fields["classes"]),
            "palette": tuple((int(r), int(g), int(b)) for r, g, b in fields["palette"]),
            "size": _pair(fields["size"]),
            "minimum": _pair(fields["minimum"]),
        }
        return Card(**(fields | tuples))
    except (ValueError, OverflowError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(
            f"{origin}: its description cannot be read ({repr(error)[:200]}); export the model again"
        ) from error


def _pair(values: Any) -> tuple[int, int]:
    width, height = values
    return int(width), int(height)
