"""What a run was made with: its frames by their contents, the code by its files, the versions of the libraries."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sfda_engine.data.frame_files import FrameFiles
from sfda_engine.data.readers import Images
from sfda_engine.errors import UserError
from sfda_engine.files import write_json
from sfda_engine.models.weights import sha256_of

FRAMES = "frames.json"
PACKAGES = ("sfda_engine", "sfda_kernels")
CODE = (".py", ".csv", ".j2")
LIBRARIES = ("torch", "torchvision", "accelerate", "safetensors", "numpy", "pillow", "torchmetrics")


def hash_files(paths: list[Path], digest: Callable[[Path], str] = sha256_of) -> dict[str, str]:
    """SHA-256 by absolute path, four files at a time."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip((str(path.absolute()) for path in paths), pool.map(digest, paths), strict=True))


def record_frames(folder: Path, target: Images) -> None:
    """Write `frames.json`: the sha256 of every target frame, right after they were decoded and lie in the page cache.

    Where a resumed run finds it, it is compared: UserError that names a frame which is not as it was. Procedural
    scenes have no files; the code makes them.
    """
    found = hash_files(target.paths) if isinstance(target, FrameFiles) else {}
    path = folder / FRAMES
    if path.exists():
        begun = json.loads(path.read_text(encoding="utf-8"))["files"]
        before, now = _relative(begun), _relative(found)
        changed = sorted(name for name in before | now if before.get(name) != now.get(name))
        if changed:
            raise UserError(
                f"run.resume: {len(changed)} target frames are not as they were when {folder} began, first "
                f"{changed[0]}; put them back, or begin another run with --run.output"
            )
    write_json(path, {"files": found})


def _relative(files: dict[str, str]) -> dict[str, str]:
    """By path from the folder that holds all of them: a data set may have moved."""
    if not files:
        return {}
    root = os.path.commonpath([os.path.dirname(name) for name in files])
    return {os.path.relpath(name, root): sha for name, sha in files.items()}


def code_identity(arch: str) -> dict[str, Any]:
    """Version, commit (None outside a checkout), digest of the engine's files and of a user module's file (or None)."""
    return {
        "version": _version("sfda-engine"),
        "commit": _commit(Path(__file__).parents[1]),
        "engine_sha256": engine_digest(),
        "module_sha256": module_digest(arch),
    }


def engine_digest() -> str:
    """SHA-256 over the names and contents of every file of the engine and its operators that decides a result."""
    digest = hashlib.sha256()
    for name in PACKAGES:
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parent
        for path in sorted(path for path in root.rglob("*") if path.suffix in CODE):
            digest.update(f"{name}/{path.relative_to(root).as_posix()} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def module_digest(arch: str) -> str | None:
    """SHA-256 of the file of a user module (`module:factory`); None for the engine's own architectures."""
    if ":" not in arch:
        return None
    spec = find_spec(arch.partition(":")[0])
    return sha256_of(spec.origin) if spec is not None and spec.origin is not None else None


def library_versions() -> dict[str, str | None]:
    """Versions of what decides the numbers."""
    return {name: _version(name) for name in LIBRARIES}


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _commit(folder: Path) -> str | None:
    """HEAD of the checkout that tracks the engine's own files; None where there is none, or no git."""
    if shutil.which("git") is None:
        return None

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
        except subprocess.TimeoutExpired:  # a slow network disk
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    return git("rev-parse", "HEAD") if git("ls-files", "--error-unmatch", "__init__.py") else None
