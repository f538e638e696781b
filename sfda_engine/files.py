"""Write small files whole or not at all, and say plainly when the disk cannot take them."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sfda_engine.errors import StorageError

DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}

PROBE = 2**20


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` at the end, and is removed where writing fails.

    Raises StorageError where the disk is full or failing; what was there before stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with disk_faults(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            sync_file(partial)  # else a power cut may leave the new name on an empty file
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn a full or failing disk into a StorageError about `path`; every other error passes."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FAULTS:
            raise
        raise StorageError(
            f"{path} cannot be written ({error.strerror}); free or repair that disk, then go on with --run.resume true"
        ) from error


def disk_fault(folder: Path) -> OSError | None:
    """What the disk says to a write of PROBE bytes in `folder`; None where it takes them. For writers that tell a full
    disk in words alone."""
    probe = folder / f".probe.{os.getpid()}.partial"
    try:
        probe.write_bytes(bytes(PROBE))
        sync_file(probe)
    except OSError as error:
        return error
    finally:
        probe.unlink(missing_ok=True)
    return None


def remove_partials(folder: Path) -> None:
    """Remove the temporary files that a killed process left anywhere in `folder`."""
    for path in folder.rglob(".*.partial"):
        if path.is_file():
            path.unlink(missing_ok=True)


def outward_link(folder: Path) -> Path | None:
    """A symbolic link anywhere in `folder` that leads outside it, so that what is written there would too."""
    inside = folder.resolve()
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                return path
    return None


def sync_file(path: Path) -> None:
    """Return when the file is on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk, where the file system can tell."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Append one line of UTF-8 text, on the disk when this returns. Raises StorageError as `whole_file` does."""
    with disk_faults(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Strict JSON: a NaN is an error, not a token that other parsers refuse."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
