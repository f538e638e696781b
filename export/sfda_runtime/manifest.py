"""A bundle's manifest.json: which files belong to it, their hashes, its golden frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfda_runtime import card as cards
from sfda_runtime.card import Card
from sfda_runtime.errors import IntegrityError

NAME = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class File:
    """What the exporter wrote down about one file of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Golden:
    """One frame at the network's size (RGB PNG) and the labels that the exported model gave for it (index PNG)."""

    frame: str
    labels: str


@dataclass(frozen=True)
class Manifest:
    """manifest.json as read; the names of files are POSIX paths relative to `folder`."""

    folder: Path
    card: Card
    files: Mapping[str, File]
    golden: tuple[Golden, ...]
    parity: Mapping[str, Any] | None
    calibration: Mapping[str, Any] | None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle. IntegrityError where there is none or it cannot be read."""
    path = folder / NAME
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            raise IntegrityError(
                f"{path} has format {fields['format']}, this runtime reads format {FORMAT}; "
                "use the sfda-runtime that came with the exporter, or export again"
            )
        return Manifest(
            folder=folder,
            card=cards.from_json(json.dumps(fields["card"]), str(path)),
            files={name: File(str(entry["sha256"]), int(entry["bytes"])) for name, entry in fields["files"].items()},
            golden=tuple(Golden(str(pair["frame"]), str(pair["labels"])) for pair in fields["golden"]),
            parity=fields.get("parity"),
            calibration=fields.get("calibration"),
        )
    except FileNotFoundError as error:
        raise IntegrityError(
            f"{folder} has no {NAME}: the copy is not complete, or the export was stopped; copy or export it again"
        ) from error
    except (OSError, ValueError, OverflowError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path} cannot be read ({repr(error)[:200]}); copy or export the bundle again") from error


def manifest_beside(model: Path) -> Manifest | None:
    """The manifest in the folder of a lone model file, or None."""
    return read_manifest(model.parent) if (model.parent / NAME).is_file() else None


def read_checked(manifest: Manifest, name: str) -> bytes:
    """The content of one file of the bundle, as exported. IntegrityError where it is missing or any byte differs."""
    entry = manifest.files.get(name)
    if entry is None:
        raise IntegrityError(f"{name} is not listed in {manifest.folder / NAME}: it is not part of this export")
    path = _confined(manifest.folder, name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read ({error.strerror}); copy or export the bundle again") from error
    check_hash(content, entry.sha256, path)
    return content


def check_hash(content: bytes, expected: str, path: Path) -> None:
    """IntegrityError where the sha256 of `content` is not `expected` (hexadecimal)."""
    found = hashlib.sha256(content).hexdigest()
    if found != expected.lower():
        raise IntegrityError(
            f"{path} is not the file that was exported: sha256 {found[:16]}..., expected {expected[:16]}...; "
            "copy or export it again"
        )


def _confined(folder: Path, name: str) -> Path:
    """The path of a name in the manifest, which must lie inside the bundle, links followed."""
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except ValueError:  # a name that no file can have
        inside = False
    if not inside:
        raise IntegrityError(f"{folder / NAME} names {name!r}, which lies outside the bundle; export it again")
    return path
