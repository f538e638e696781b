"""A full disk and a full memory are told in a line, wherever they strike."""

from __future__ import annotations

import errno

import pytest
import torch

from sfda_engine.exit_codes import Main, exit_code


def full_disk(argv: list[str]) -> int:
    raise OSError(errno.ENOSPC, "No space left on device", "bundle/golden/0.png")


def full_memory(argv: list[str]) -> int:
    raise torch.OutOfMemoryError("Tried to allocate 20.00 MiB")


def no_memory(argv: list[str]) -> int:
    raise MemoryError


@pytest.mark.parametrize(
    ("main", "words"),
    [(full_disk, "storage failed: "), (full_memory, "out of memory: "), (no_memory, "out of memory: MemoryError")],
)
def test_one_line_and_exit_code_1(main: Main, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(main, []) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(words)


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.ENOENT, "No such file", "x"),
        RuntimeError("DefaultCPUAllocator"),
        type("OutOfMemoryError", (Exception,), {}),
    ],
)
def test_other_faults_keep_their_traceback(fault: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever they say, and whatever they are called."""

    def fails(argv: list[str]) -> int:
        raise fault

    assert exit_code(fails, []) == 1
    assert "Traceback" in capsys.readouterr().err
