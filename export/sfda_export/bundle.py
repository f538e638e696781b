"""A bundle's folder: whole or not there at all; its golden frames; its manifest, written last."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sfda_engine.errors import UserError
from sfda_engine.files import write_json
from sfda_engine.models.weights import sha256_of
from sfda_export.parity import open_session, run
from sfda_runtime import manifest
from sfda_runtime.card import Card
from sfda_runtime.pictures import index_png

GOLDEN = 2
PARTIAL = ".partial"


def check_output(folder: Path) -> None:
    """UserError where `folder` is in use or cannot be made; nothing is created."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output {folder} exists and is not empty; name another folder")
    parent = next(path for path in folder.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f"--output {folder} cannot be created in {parent}; choose a writable place")


@contextmanager
def new_bundle(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that becomes it when the block ends well and vanishes when it does not.

    What exports that were killed have left there is removed first. Raises UserError as `check_output` does.
    """
    check_output(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*{PARTIAL}"):
        if not _runs(left):
            shutil.rmtree(left, ignore_errors=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}{PARTIAL}")
    try:
        partial.mkdir()
        yield partial
        os.replace(partial, folder)  # an empty folder of that name is replaced
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _runs(partial: Path) -> bool:
    """Whether the process that made this temporary folder still runs."""
    try:
        os.kill(int(partial.name.removesuffix(PARTIAL).rpartition(".")[2]), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def write_golden(
    folder: Path, frames: Sequence[Image.Image], palette: tuple[tuple[int, int, int], ...]
) -> list[dict[str, str]]:
    """Write the first GOLDEN frames and the labels that model.onnx gives for them; their entries of the manifest."""
    session = open_session(folder / "model.onnx")
    (folder / "golden").mkdir()
    entries = []
    for index, frame in enumerate(frames[:GOLDEN]):
        entry = {"frame": f"golden/{index}.png", "labels": f"golden/{index}_labels.png"}
        (labels,) = run(session, ["labels"], np.asarray(frame)[None])
        frame.save(folder / entry["frame"])
        (folder / entry["labels"]).write_bytes(index_png(labels[0], palette))
        entries.append(entry)
    return entries


def write_manifest(
    folder: Path,
    card: Card,
    golden: list[dict[str, str]],
    parity: Mapping[str, Any],
    calibration: Mapping[str, Any] | None,
) -> None:
    """Write manifest.json over every file that lies in the folder; paths are relative, with forward slashes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(
        folder / manifest.NAME,
        {
            "format": manifest.FORMAT,
            "card": dataclasses.asdict(card),
            "files": {
                path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
                for path in files
            },
            "golden": golden,
            "parity": parity,
            "calibration": calibration,
        },
    )
