"""One process at a time writes to a run folder: a lock that the system releases when its holder dies.

A POSIX record lock: unlike flock, it is not inherited by loader processes, which may outlive a killed run by seconds.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

from sfda_engine.errors import UserError

NAME = "in_use"
P = ParamSpec("P")
R = TypeVar("R")
_held: dict[Path, IO[str]] = {}


def hold(folder: Path) -> None:
    """Take the lock of an existing folder. UserError that names the process that has it; nothing without locks."""
    path = folder.resolve() / NAME
    if path in _held:
        return
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read(200).strip() or "another process"
            file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return  # a network disk without locks
            raise UserError(
                f"run.output {folder} is being written by {owner}; wait until it ends, stop it, or name another folder"
            ) from error
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()  # its holder has removed it meanwhile
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    _held[path] = file


def release() -> None:
    """Give back every lock of this process."""
    while _held:
        path, file = _held.popitem()
        path.unlink(missing_ok=True)
        file.close()


def released_after(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, which gives back at its end whatever `hold` has taken."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        finally:
            release()

    return wrapped
