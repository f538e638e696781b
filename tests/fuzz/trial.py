"""Run many cases in a process of their own, with limits of time and memory, and tell what became of them.

A case gets a generator that its number alone decides, so `case(random.Random("name/17"))` repeats the seventeenth.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

LIMIT_S = 10.0
"""Seconds of processor time that one case may take; twelve times as many by the clock."""
MEMORY = 3 << 30
"""Bytes that a case may allocate beyond what the process has when it begins."""
LONGEST = 4000
"""Characters of a message that a person would still read."""

Case = Callable[[random.Random], Any]


class Late(BaseException):
    """The alarm of one case; no Exception, so that nothing under test can swallow it."""


def run_cases(name: str, case: Case, count: int, *, refusals: tuple[type[BaseException], ...]) -> Counter[str]:
    """Numbers of cases that were taken, and of those refused by exception class.

    AssertionError, naming the case, for a hang, a crash, another exception, or a refusal without a readable message.
    """
    context = multiprocessing.get_context("fork")
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    first = 0
    while first < count:
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(name, case, range(first, count), refusals, writer))
        process.start()
        writer.close()
        first = _listen(name, process, reader, first, outcomes, faults)
    assert not faults, f"{len(faults)} of {count} cases of {name}:\n" + "\n".join(_one_of_each(faults))
    print(f"{name}: {count} cases, {dict(outcomes)}")
    return outcomes


def _one_of_each(faults: list[str]) -> list[str]:
    """The first fault of each kind: those that end in the same place are one."""
    return list({fault.partition("\n")[2] or fault: fault for fault in reversed(faults)}.values())[::-1][:20]


def _listen(name: str, process: Any, reader: Connection, first: int, outcomes: Counter[str], faults: list[str]) -> int:
    """Gather the outcomes of a process; the number of the case that comes after its last one."""
    done = first
    while True:
        try:
            if not reader.poll(12 * LIMIT_S):  # code that does not come back to Python takes no alarm
                process.kill()
                faults.append(f"{name}/{done} hangs")
                break
            outcome, fault = reader.recv()
        except EOFError:
            process.join()
            if process.exitcode != 0:
                faults.append(f"{name}/{done} ended the process: exit code {process.exitcode}")
                break
            return done
        done += 1
        outcomes[outcome] += 1
        if fault:
            faults.append(fault)
    process.join()
    return done + 1


def _work(name: str, case: Case, numbers: range, refusals: tuple[type[BaseException], ...], writer: Connection) -> None:
    signal.signal(signal.SIGPROF, _late)
    # a bomb fails here instead of on the machine that runs the tests
    limit = _address_space() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in numbers:
        writer.send(_one(f"{name}/{number}", case, refusals))
    writer.close()
    sys.stdout.flush()
    os._exit(0)  # the parent's fixtures are the parent's


def _one(name: str, case: Case, refusals: tuple[type[BaseException], ...]) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    begun = time.perf_counter()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            case(random.Random(name))
    except Late:
        where = "".join(traceback.format_exc().splitlines(keepends=True)[-7:-1])
        return "late", f"{name} took {time.perf_counter() - begun:.0f} s:\n{where}"
    except refusals as error:
        message = str(error)
        if not message.strip() or len(message) > LONGEST or "\0" in message:
            return "unclear", f"{name} has an unclear message of {len(message)} characters: {message[:200]!r}"
        return type(error).__name__, ""
    except BaseException as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
        where = "".join(f"  {frame.filename}:{frame.lineno}: {frame.line}\n" for frame in frames[-3:])
        return "fault", f"{name}: {str(error)[:200]!r}\n  {type(error).__name__}\n{where}{err.getvalue()[-1500:]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "taken", ""


def _late(number: int, frame: FrameType | None) -> None:
    raise Late


def _address_space() -> int:
    """Bytes of address space that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
