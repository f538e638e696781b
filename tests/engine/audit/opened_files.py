"""The kernel's word on which files are opened, in order: inotify, which sees every process and C code too (Linux)."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

OPENED, MOVED_IN, CREATED = 0x20, 0x80, 0x100
HEADER = struct.Struct("iIII")
NONBLOCKING = os.O_NONBLOCK


class Watch:
    """Opens and new names in folders, each watched by itself; one queue, so the order of events is the kernel's."""

    def __init__(self, *folders: Path) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self.libc.inotify_init1(NONBLOCKING)
        assert self.descriptor >= 0, os.strerror(ctypes.get_errno())
        self.folders: dict[int, Path] = {}
        for folder in folders:
            handle = self.libc.inotify_add_watch(self.descriptor, os.fsencode(folder), OPENED | MOVED_IN | CREATED)
            assert handle >= 0, os.strerror(ctypes.get_errno())
            self.folders[handle] = folder

    def events(self) -> list[tuple[str, Path]]:
        """("opened" | "named", path) of files since the last call, oldest first; folders that are listed count too."""
        found = []
        try:
            while chunk := os.read(self.descriptor, 1 << 16):
                at = 0
                while at < len(chunk):
                    handle, mask, _, length = HEADER.unpack_from(chunk, at)
                    at += HEADER.size
                    name = os.fsdecode(chunk[at : at + length].rstrip(b"\0"))
                    at += length
                    assert handle >= 0, "the kernel's queue has overflowed"
                    found.append(("opened" if mask & OPENED else "named", self.folders[handle] / name))
        except BlockingIOError:
            pass
        return found

    def close(self) -> None:
        os.close(self.descriptor)
