"""The folder of a run: named or made up, empty or to be resumed, held by one process at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sfda_engine.distributed.collectives import decided_by_main, join
from sfda_engine.errors import UserError
from sfda_engine.files import outward_link
from sfda_engine.run_folder.lock import hold


def create_run_folder(output: str | None, *, resume: bool, name: str) -> Path:
    """The folder of this run, created by the main process for all.

    A named `output` must be empty or absent unless `resume`. Raises UserError where it is not, or where it cannot be
    written or seen.
    """
    join()
    folder = decided_by_main(lambda: _new_folder(output, resume=resume, name=name))
    if not folder.is_dir():
        raise UserError(
            f"run.output {folder} is not to be seen here, only by the main process; name a folder with --run.output "
            "that all machines share"
        )
    return folder


def check_output(output: str | None, *, resume: bool, name: str) -> Path:
    """The folder that `create_run_folder` will take, looked at alone: `output`, or runs/<name>-<time>.

    Raises UserError where it is in use, or not named.
    """
    folder = Path(output or Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}").expanduser()
    if resume and output is None:
        raise UserError("run.resume needs the run folder to continue: name it with --run.output FOLDER")
    if output is not None and not resume and _in_use(folder):
        raise UserError(f"run.output {folder} exists and is not empty; name another folder, or add --run.resume true")
    return folder


def _new_folder(output: str | None, *, resume: bool, name: str) -> Path:
    folder = make_folder(check_output(output, resume=resume, name=name))
    if (link := outward_link(folder)) is not None:
        raise UserError(f"{link} in run.output leads to {link.resolve()}, outside it; remove the link, or move the run")
    hold(folder)
    return folder


def _in_use(path: Path) -> bool:
    try:
        return path.exists() and (not path.is_dir() or any(path.iterdir()))
    except OSError:
        return False  # make_folder says what is wrong with a place that may not be looked at


def make_folder(folder: Path) -> Path:
    """Create `run.output`, with its parents, or raise UserError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run.output {folder} cannot be created ({error.strerror}); choose a writable place") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"run.output {folder} is not writable; choose another place")
    return folder


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """`make_folder`; a folder that was made here is removed again where the block fails before it writes anything."""
    existed = folder.exists()
    make_folder(folder)
    try:
        yield folder
    except BaseException:
        if not existed:
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise
