"""Open one exported model: find the file, check hash, description and inputs, start its session."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

from sfda_runtime import card as cards
from sfda_runtime.card import METADATA_KEY, Card, Graph
from sfda_runtime.errors import ModelError, RuntimeFault, UsageError
from sfda_runtime.manifest import Manifest, check_hash, manifest_beside, read_checked, read_manifest
from sfda_runtime.session import SessionOptions, on_providers, open_session

FILES: dict[Graph, str] = {
    "labels": "model.onnx",
    "diagnostics": "model_diag.onnx",
    "logits": "model_logits.onnx",
    "adaptive": "model_adaptive.onnx",
}
OUTPUTS: dict[Graph, tuple[str, ...]] = {
    "labels": ("labels",),
    "diagnostics": ("labels", "confidence", "entropy"),
    "logits": ("labels", "logits"),
    "adaptive": ("labels", "confidence", "entropy", "bn_mean_out", "bn_var_out"),
}
RUN_MARKS = ("result.json", "adapted.safetensors")
"""Files of a run folder of the engine, which is no bundle."""
STATE_INPUTS = ("bn_mean", "bn_var", "normalize", "update")


@dataclass(frozen=True)
class Model:
    """A model that is ready to run, and what is known of it."""

    path: Path
    sha256: str
    card: Card
    manifest: Manifest | None
    session: onnxruntime.InferenceSession
    load_ms: float


def open_model(path: str | Path, graph: Graph | None, options: SessionOptions, sha256: str | None = None) -> Model:
    """The model of a bundle folder (its file for `graph`) or of a lone .onnx file (`graph` None: whatever it is).

    The hash is checked against a manifest beside the file, and against `sha256` where one is given.
    Raises UsageError (no such path, no such graph), IntegrityError (hash), ModelError (no model of ours),
    ProviderError (not on the provider that was asked for).
    """
    start = time.perf_counter()
    file, manifest = locate(Path(path), graph)
    content = read_checked(manifest, file.name) if manifest else _read(file)
    if sha256 is not None:
        check_hash(content, sha256, file)
    digest = hashlib.sha256(content).hexdigest()
    with _naming(file):
        session = open_session(content, options)
        text = _description(session)
    card = cards.from_json(text, str(file))
    with _naming(file):
        _check_signature(session, card)
        session = on_providers(session, content, card, digest, options)
    if graph is not None and card.graph != graph:
        raise UsageError(f"{file} is the graph {card.graph!r}, {graph!r} was asked for; name the bundle's folder")
    return Model(file, digest, card, manifest, session, 1e3 * (time.perf_counter() - start))


def locate(path: Path, graph: Graph | None) -> tuple[Path, Manifest | None]:
    """The file of a graph and the manifest that answers for it. UsageError where there is no such file."""
    refuse_other_things(path)
    if path.is_dir():
        manifest, name = read_manifest(path), FILES[graph or "labels"]
        if name not in manifest.files:
            raise UsageError(f"{path} has no {name}; it holds {', '.join(sorted(manifest.files))}")
        return path / name, manifest
    return path, manifest_beside(path)


def refuse_other_things(path: Path) -> None:
    """UsageError where `path` is neither a folder that may be a bundle nor an .onnx file."""
    if path.is_dir():
        has_model = any((path / name).is_file() for name in FILES.values())
        if not has_model and any((path / mark).is_file() for mark in RUN_MARKS):
            bundle = path / "bundle"
            there = bundle.is_dir()
            do = f"name {bundle}" if there else f"export it first: sfda export {path} --output {bundle}"
            raise UsageError(f"{path} is a run folder, not a bundle: {do}")
    elif not path.is_file():
        raise UsageError(f"{path} does not exist; name a bundle folder or an .onnx file")
    elif path.suffix.lower() != ".onnx":
        raise UsageError(f"{path} is not an .onnx file; export it first (sfda export), then name the bundle")


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror})") from error


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Put the file's name before the message of a fault that does not know it."""
    try:
        yield
    except RuntimeFault as error:
        raise type(error)(f"{file}: {error}") from error


def _description(session: onnxruntime.InferenceSession) -> str:
    try:
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except UnicodeDecodeError as error:
        raise ModelError(f"its metadata is damaged ({error}); copy it again") from error
    if text is None:
        raise ModelError(
            f"no description under the key {METADATA_KEY!r} of its metadata; it was not made by sfda_export, "
            "or a tool has dropped it"
        )
    return str(text)


def _check_signature(session: onnxruntime.InferenceSession, card: Card) -> None:
    """ModelError where inputs and outputs are not those of the graph that the description names."""
    inputs = {node.name: (node.type, len(node.shape)) for node in session.get_inputs()}
    outputs = tuple(node.name for node in session.get_outputs())
    if inputs.get("frames") != ("tensor(uint8)", 4):
        raise ModelError(f"it takes no uint8 frames (N, H, W, 3) but {inputs}; export it by sfda_export")
    state = STATE_INPUTS if card.graph == "adaptive" else ()
    expected = OUTPUTS.get(card.graph, ())
    if set(inputs) != {"frames", *state} or outputs[:1] != expected[:1] or set(outputs) != set(expected):
        raise ModelError(
            f"its inputs {sorted(inputs)} and outputs {list(outputs)} are not those of the graph {card.graph!r} "
            "that it says it is; export it again"
        )
