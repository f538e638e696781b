"""Folders that appear whole or not at all and know their own damage: a manifest holds the sha256 of every file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from sfda_engine.files import sync_file, sync_folder, write_json
from sfda_engine.models.weights import sha256_of

MANIFEST = "manifest.json"


def partial_of(final: Path) -> Path:
    """Where the files of the folder `final` are written before `seal`; a name that nothing takes for a whole one."""
    return final.with_name(f".partial-{final.name}")


def seal(partial: Path, final: Path) -> None:
    """Write the manifest of `partial`, bring all to the disk, and rename it to `final`, which it replaces."""
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    manifest = {}
    for path in files:
        sync_file(path)
        manifest[path.relative_to(partial).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    write_json(partial / MANIFEST, {"files": manifest})
    sync_folder(partial)
    discard(final)
    partial.rename(final)
    sync_folder(final.parent)


def damage(folder: Path) -> str | None:
    """What is wrong with a sealed folder, in a few words; None where every file is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, written in manifest.items():
            size = (folder / name).stat().st_size
            if size != written["bytes"]:
                return f"{name} has {size} bytes, {written['bytes']} were written"
            if sha256_of(folder / name) != written["sha256"]:
                return f"{name} differs from its sha256"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{Path(error.filename or folder).name} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} cannot be read"
    return None


def discard(folder: Path) -> None:
    """Remove a sealed folder; killed half-way, it leaves a name that nothing takes for a whole one."""
    if folder.exists():
        dropped = folder.with_name(f".dropped-{folder.name}")
        shutil.rmtree(dropped, ignore_errors=True)
        folder.rename(dropped)
        shutil.rmtree(dropped)


def remove_unsealed(parent: Path) -> None:
    """Remove what killed processes left beside the sealed folders of `parent`."""
    for path in (*parent.glob(".partial-*"), *parent.glob(".dropped-*")):
        shutil.rmtree(path, ignore_errors=True)
