"""python -m benchmarks.resolution: seconds and peak memory of an adaptation step against the target's size.

On a CPU the seconds are those that the process computed (sum over its threads): other jobs on a machine do not stretch
them. Run it with OMP_NUM_THREADS=1, and they are the seconds of an idle core.
Every point runs in a process of its own and is kept in the CSV; a second call measures only what is missing there.
An exponent e says that a cost grows as pixels ** e: the slope of a line fitted to its logarithms.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import time
from pathlib import Path

import torch

from benchmarks.common.machine import device, device_slug
from benchmarks.common.measure import count_peak_from_here, peak_above, quantiles
from benchmarks.common.plot import save
from benchmarks.common.row import Row, read_rows, stamp, write_table
from benchmarks.common.step.setting import Setting, Step, prepare

SIZES = [(256, 128), (512, 256), (1024, 512), (2048, 1024)]
FIXED = (256, 128)
"""The synthetic size that stays while the target grows."""
BOUND = 1.1
"""The largest exponent allowed to streetnet at a fixed synthetic size, for time and for memory."""


def settings(arch: str, sizes: list[tuple[int, int]], batch: int, *, halved: bool) -> list[Setting]:
    """A curve: synthetic images of half the target's size, or of one size throughout."""
    return [
        Setting(provider="engine", arch=arch, size=size, batch=batch, synthetic=None if halved else FIXED)
        for size in sizes
    ]


def curve_of(setting: Setting) -> str:
    """The curve that a point belongs to."""
    if setting.synthetic is None:
        return f"{setting.arch}, synthetic half the target"
    return f"{setting.arch}, synthetic {setting.synthetic[0]}x{setting.synthetic[1]}"


def shape_of(setting: Setting) -> str:
    return f"{setting.size[0]}x{setting.size[1]} B={setting.batch}"


def measure_steps(setting: Setting, steps: int, threads: int) -> tuple[list[float], float]:
    """Milliseconds of each of `steps` steps after one that is not timed, and peak memory of all of them, MiB."""
    torch.set_num_threads(threads)
    prepared = prepare(setting)
    before = count_peak_from_here(device())
    times = [_milliseconds(prepared.step) for _ in range(steps + 1)]
    return times[1:], peak_above(before, device())


def _milliseconds(step: Step) -> float:
    clock = time.perf_counter if device().type == "cuda" else time.process_time
    since = clock()
    step()
    if device().type == "cuda":
        torch.cuda.synchronize()
    return (clock() - since) * 1e3


def measure(setting: Setting, steps: int) -> Row:
    """One point, in a fresh process: nothing that ran before counts towards its peak."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        times, peak = pool.apply(measure_steps, (setting, steps, torch.get_num_threads()))
    found = quantiles(times)
    return stamp(
        Row(
            op="resolution",
            provider=curve_of(setting),
            direction="step",
            shape=shape_of(setting),
            dtype="fp32",
            p20_ms=found.p20,
            p50_ms=found.p50,
            p80_ms=found.p80,
            peak_memory_mb=peak,
            images_per_second=setting.batch * 1e3 / found.p50,
        )
    )


def pixels(row: Row) -> int:
    """Pixels of a target frame, read off the row."""
    width, height = row.shape.partition(" ")[0].split("x")
    return int(width) * int(height)


def exponent(sizes: list[int], costs: list[float]) -> float:
    """e of cost = a * size ** e, by least squares on logarithms; at least two different sizes."""
    return statistics.linear_regression([math.log(s) for s in sizes], [math.log(c) for c in costs]).slope


def exponents(rows: list[Row]) -> list[str]:
    """One line a curve of at least two points: fitted over all of them, and from its last two alone."""
    lines = []
    for curve in dict.fromkeys(row.provider for row in rows):
        own = sorted((row for row in rows if row.provider == curve), key=pixels)
        if len(own) < 2:
            continue
        sizes = [pixels(row) for row in own]
        told = []
        for cost, values in (
            ("time", [r.p50_ms or 0.0 for r in own]),
            ("memory", [r.peak_memory_mb or 0.0 for r in own]),
        ):
            told.append(f"{cost} {exponent(sizes, values):.2f} (last two {exponent(sizes[-2:], values[-2:]):.2f})")
        bounded = curve == curve_of(settings("streetnet", SIZES[:1], 2, halved=False)[0])
        lines.append(
            f"{curve}: pixels to the power of {', '.join(told)}; " + (f"bound {BOUND}" if bounded else "no bound")
        )
    return lines


def plot(rows: list[Row], path: Path) -> None:
    """Seconds and memory a step against pixels, both axes logarithmic, one line a curve."""
    from matplotlib.figure import Figure  # not above: processes that measure memory import this file

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    times, memories = figure.subplots(1, 2)
    for curve in dict.fromkeys(row.provider for row in rows):
        own = sorted((row for row in rows if row.provider == curve), key=pixels)
        sizes = [pixels(row) for row in own]
        times.loglog(sizes, [(row.p50_ms or 0.0) / 1e3 for row in own], marker="o", label=curve)
        memories.loglog(sizes, [row.peak_memory_mb for row in own], marker="o", label=curve)
    for axes, title in ((times, "seconds a step"), (memories, "peak MiB above networks and frames")):
        axes.set_xlabel("pixels of a target frame")
        axes.set_title(f"{title}: {rows[-1].device}", fontsize=9)
        axes.grid(visible=True, which="both", alpha=0.3)
    times.legend(fontsize=8)
    save(figure, path, dpi=120)


def write_results(stem: Path, rows: list[Row]) -> None:
    remark = (
        "Random weights, one batch; each point in a process of its own. Peak memory is above networks and frames.\n\n"
        + "\n".join(f"- {line}" for line in exponents(rows))
    )
    write_table(stem, rows, "Adaptation step against target size", remark)
    plot(rows, stem.with_suffix(".png"))


def main(argv: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="timed steps a point, after one that is not")
    parser.add_argument("--output", default="benchmarks/results")
    parser.add_argument("--quick", action="store_true", help="two points of streetnet, 64x32 and 128x64")
    arguments = parser.parse_args(argv)
    stem = Path(arguments.output) / f"resolution_{device_slug()}"
    sizes = [(64, 32), (128, 64)] if arguments.quick else SIZES
    points = settings("streetnet", sizes, arguments.batch, halved=False)
    if not arguments.quick:
        points += settings("deeplabv3_resnet50", SIZES[:3], arguments.batch, halved=False)
        points += settings("streetnet", SIZES, arguments.batch, halved=True)
    rows = read_rows(stem.with_suffix(".csv"))
    for point in points:
        if any((row.provider, row.shape) == (curve_of(point), shape_of(point)) for row in rows):
            continue
        rows.append(measure(point, arguments.steps))
        write_results(stem, rows)  # after every point: a later one may take too long
    print(stem.with_suffix(".md").read_text())
    return rows


if __name__ == "__main__":
    main()
