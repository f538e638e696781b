"""The machine that a figure was taken on, and by which code."""

from __future__ import annotations

import datetime
import functools
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def device() -> torch.device:
    """The GPU where there is one, as Accelerate puts a run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@functools.cache
def device_name() -> str:
    """The GPU's name, or the processor's with the word CPU in front."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU {_processor()}"


def device_slug() -> str:
    """The device in a file name: cpu, or the GPU's name in lower case."""
    return device_name().lower().replace(" ", "_") if torch.cuda.is_available() else "cpu"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.processor() or platform.machine()


@functools.cache
def versions() -> str:
    """torch, triton and Python."""
    try:
        import triton

        kernels = f"triton {triton.__version__}"
    except ImportError:
        kernels = "no triton"
    return f"torch {torch.__version__}, {kernels}, Python {platform.python_version()}"


@functools.cache
def commit() -> str:
    """Of this code, "-dirty" behind it where it is changed."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def provenance() -> dict[str, Any]:
    """Device, threads of torch, versions, commit and time (UTC, seconds): the last columns of every table."""
    return {
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "commit": commit(),
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
