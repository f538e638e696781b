"""python -m benchmarks.all: tests on the GPU, then every benchmark, inside 9 minutes; results stay whatever fails.

Runs with the Python it is started by, from the repository root, with PYTHONPATH=.:kernels:export where the package is
not installed. Tables, plots and logs go to benchmarks/results; where the environment variable OUT names a folder, a
copy of all of them is there as benchmarks.tar.gz, renewed after every job.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A command of this Python, the seconds that it may take, and the name of its log."""

    name: str
    arguments: tuple[str, ...]
    seconds: int


def jobs(folder: Path) -> list[Job]:
    """In order of interest; together under 9 minutes."""
    output = ("--output", str(folder))

    def benchmark(module: str, *arguments: str) -> tuple[str, ...]:
        return ("-m", f"benchmarks.{module}", *output, *arguments)

    return [
        Job("tests", ("-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/kernels"), 130),
        Job("patch_entropy", benchmark("patch_entropy", "--seconds", "0.2", "--budget", "40"), 60),
        Job("attention", benchmark("attention", "--seconds", "0.2", "--budget", "130"), 170),
        Job("adapt_step_deeplab", benchmark("adapt_step", "--arch", "deeplabv3_resnet50", "--seconds", "5"), 115),
        Job("adapt_step_streetnet", benchmark("adapt_step", "--seconds", "3"), 60),
    ]


def run(job: Job, folder: Path) -> str:
    """Run one job with its output in a log; how it ended, in words."""
    start = time.perf_counter()
    with (folder / f"{job.name}.log").open("w") as log:
        try:
            command = [sys.executable, *job.arguments]
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=job.seconds).returncode
            ending = "done" if code == 0 else f"failed ({code})"
        except subprocess.TimeoutExpired:
            ending = f"stopped after {job.seconds} s"
    return f"{job.name}: {ending}, {time.perf_counter() - start:.0f} s"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    parser.add_argument("--output", default="benchmarks/results")
    arguments = parser.parse_args(argv)
    folder, out = Path(arguments.output), os.environ.get("OUT")
    found = jobs(folder)
    if arguments.dry_run:
        for job in found:
            print(f"{job.seconds:4} s  {sys.executable} {' '.join(job.arguments)} > {folder / job.name}.log")
        print(f"{sum(job.seconds for job in found):4} s at most" + (f"; {out}/benchmarks.tar.gz" if out else ""))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    endings = []
    for job in found:
        endings.append(run(job, folder))
        print(endings[-1], flush=True)
        (folder / "summary.txt").write_text("\n".join(endings) + "\n")
        if out is not None:
            shutil.make_archive(str(Path(out) / "benchmarks"), "gztar", folder)
    return 0 if all(": done" in ending for ending in endings) else 1


if __name__ == "__main__":
    sys.exit(main())
