"""Files that are whole or not there at all."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from sfda_runtime.errors import UsageError


def make_output(folder: Path) -> Path:
    """An empty folder for results, made where it is absent. UsageError where it holds something or cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise UsageError(f"output {folder} cannot be written ({error.strerror}); name another folder") from error
    if occupied:
        raise UsageError(f"output {folder} is not empty; name a new folder, or empty it")
    return folder


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it; folders are made. UsageError where the disk refuses."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise UsageError(
            f"{path} cannot be written ({error.strerror}); free the disk or name another folder"
        ) from error


def to_json(value: Any) -> str:
    """Strict JSON on one line."""
    return json.dumps(value, allow_nan=False)


class Lines:
    """A file of JSON lines, each of them on disk whole as soon as it is written."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise UsageError(f"{path} cannot be written ({error.strerror}); name another folder") from error

    def write(self, value: Any) -> None:
        try:
            self._file.write(to_json(value).encode() + b"\n")
        except OSError as error:
            raise UsageError(f"{self._file.name} cannot be written ({error.strerror}); free the disk") from error

    def close(self) -> None:
        self._file.close()
