"""Read what a run left in its folder: the result, the metrics, the configuration and the figures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfda_engine.errors import UserError

CELLS = ("frame", "source", "adapted", "label", "entropy", "patches")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One target frame: its name, and the PNG file of each cell that was saved."""

    name: str
    cells: dict[str, Path]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The contents of a run folder. unread_lines: lines of metrics.jsonl that are no JSON objects."""

    result: dict[str, Any]
    metrics: tuple[dict[str, Any], ...]
    unread_lines: int
    config: str
    frames: tuple[Frame, ...]
    synthetic: tuple[tuple[Path, Path], ...]
    manifest: dict[str, Any] = field(default_factory=dict)
    manifest_sha256: str = ""


def read_run(folder: Path) -> Run:
    """Read a run folder. Only result.json must be there: UserError where it is absent or no JSON object."""
    metrics, unread_lines = _read_metrics(folder / "metrics.jsonl")
    manifest, manifest_sha256 = _read_manifest(folder / "manifest.json")
    return Run(
        result=_read_result(folder / "result.json"),
        metrics=metrics,
        unread_lines=unread_lines,
        config=_text(folder / "config.yaml"),
        frames=_find_frames(folder / "figures" / "frames"),
        synthetic=_find_synthetic(folder / "figures"),
        manifest=manifest,
        manifest_sha256=manifest_sha256,
    )


def _read_result(path: Path) -> dict[str, Any]:
    try:
        result = _parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: name the folder of a finished run") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): run the adaptation again") from error
    if not isinstance(result, dict):
        raise UserError(f"{path} holds a {type(result).__name__}, not a JSON object: run the adaptation again")
    return result


def _read_manifest(path: Path) -> tuple[dict[str, Any], str]:
    """Content and sha256 of manifest.json; empty where there is none, or none to be read."""
    try:
        raw = path.read_bytes()
        manifest = _parse(raw.decode())
    except (OSError, ValueError):
        return {}, ""
    return (manifest, hashlib.sha256(raw).hexdigest()) if isinstance(manifest, dict) else ({}, "")


def _read_metrics(path: Path) -> tuple[tuple[dict[str, Any], ...], int]:
    """Every line that is a JSON object: a killed process may have left its last line torn."""
    rows, unread = [], 0
    for line in filter(str.strip, _text(path).splitlines()):
        try:
            row = _parse(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            unread += 1
    return tuple(rows), unread


def _parse(text: str) -> Any:
    # NaN and Infinity are no JSON, and no figure either: they read as "not known".
    return json.loads(text, parse_constant=lambda _: None)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _find_frames(folder: Path) -> tuple[Frame, ...]:
    frames: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*.png")):
        stem, _, cell = path.stem.rpartition("_")
        if cell in CELLS:
            frames.setdefault(stem, {})[cell] = path
    return tuple(Frame(name=stem.partition("_")[2], cells=cells) for stem, cells in frames.items())


def _find_synthetic(folder: Path) -> tuple[tuple[Path, Path], ...]:
    images = sorted(folder.glob("synthetic_*_image.png"))
    pairs = [(image, image.with_name(image.name.replace("_image.png", "_prediction.png"))) for image in images]
    return tuple(pair for pair in pairs if pair[1].is_file())
