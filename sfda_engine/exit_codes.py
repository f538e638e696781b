"""How every entry point ends: the exit codes of the contract."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from sfda_engine.errors import ExportError, FirewallError, StorageError, TrainingError, UserError
from sfda_engine.files import DISK_FAULTS

Main = Callable[[list[str]], int | None]


def exit_code(main: Main, argv: Sequence[str] | None = None) -> int:
    """Run `main` on `argv` (None = the process's own) and turn its ending into an exit code.

    0 done; 2 the user's mistake, one message on stderr; 1 training, export or the disk failed, a label leaked, or a
    fault of ours with its traceback; 130 interrupted. SystemExit (--help) passes through.
    """
    try:
        return main(list(sys.argv[1:] if argv is None else argv)) or 0
    except UserError as error:
        print(f"{_speaker()}error: {error}", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"{_speaker()}training failed: {error}", file=sys.stderr)
        return 1
    except StorageError as error:
        print(f"storage failed: {error}", file=sys.stderr)
        return 1
    except FirewallError as error:
        print(f"{_speaker()}label firewall: {error}", file=sys.stderr)
        return 1
    except ExportError as error:
        print(f"export failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"interrupted{f': {interrupt}' if str(interrupt) else ''}", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FAULTS:
            print(f"storage failed: {error}; free or repair that disk, then repeat the command", file=sys.stderr)
            return 1
        if _out_of_memory(error):
            first = next(iter(str(error).splitlines()), "") or type(error).__name__
            print(f"out of memory: {first[:300]}; take smaller frames, a smaller batch or network", file=sys.stderr)
            return 1
        traceback.print_exc()
        return 1


def _out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or torch on a GPU has no memory left. What torch raises on a CPU is a RuntimeError like any
    other, and keeps its traceback."""
    torch = sys.modules.get("torch")  # a command that has not loaded it can have no error of it
    return isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))


def _speaker() -> str:
    """Which process of a job speaks; most mistakes all of them find, but some only one."""
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f"process {rank}: "


def run_entry(main: Main) -> NoReturn:
    """`if __name__ == "__main__": run_entry(main)` closes every module that is run with -m."""
    sys.exit(exit_code(main))
