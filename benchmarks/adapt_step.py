"""python -m benchmarks.adapt_step: the whole adaptation step, the engine against a plain transcription of the paper.

First the engine's losses must equal the naive ones, step by step from the same state; then times in turns, images a
second, peak memory (each in a process of its own on a CPU), and where the time goes, by phase.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.common.machine import device, device_slug
from benchmarks.common.markdown import table
from benchmarks.common.measure import Quantiles, Timed, peak_memory_mb, time_in_turns
from benchmarks.common.plot import plot
from benchmarks.common.row import Row, stamp, write_table
from benchmarks.common.step.phases import engine_phases, live_memory, profile_steps
from benchmarks.common.step.setting import PRECISIONS, Precision, Prepared, Setting, follow, prepare

TOLERANCE = {"no": 1e-3, "bf16": 5e-2}
"""Largest relative difference of a loss term in a step from the same state; bf16 rounds every activation."""
AFTER_GENERATOR = ("student/mae", "student/dad_ss", "student/total")
AFTER_TOLERANCE = {"no": 2e-2, "bf16": 2e-1}
"""The same for terms on images of the updated generator: Adam makes a whole step of the sign of a gradient that is
nothing but rounding, and L_MAE of a deep network sees it."""
COMPARED_STEPS = 3
MEMORY_STEPS = 2
"""The first one allocates the optimizers' state."""
PROFILED_STEPS = 2


def groups(base: Setting, precisions: list[Precision], *, compiled: bool) -> Iterator[list[Setting]]:
    """Settings that are timed in turns, the naive step of their precision first."""
    for precision in precisions:
        naive = dataclasses.replace(base, provider="naive", precision=precision)
        engine = dataclasses.replace(naive, provider="engine")
        shared = dataclasses.replace(naive, provider="engine, shared forward")
        # on a CPU "auto" is the torch backend already
        plain = [dataclasses.replace(engine, backend="torch")] if device().type == "cuda" else []
        yield [naive, *plain, engine, shared]
    if compiled:
        for precision in precisions:
            naive = dataclasses.replace(base, provider="naive", precision=precision)
            yield [naive, dataclasses.replace(naive, provider="engine", compiled=True)]


@dataclass(frozen=True)
class Difference:
    """Largest relative difference of the terms that do not depend on the generator's update, and of those that do."""

    before: float = 0.0
    after: float = 0.0

    def is_right(self, precision: str) -> bool:
        """Whether it is rounding."""
        return self.before <= TOLERANCE[precision] and self.after <= AFTER_TOLERANCE[precision]


def difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Difference:
    """Of the terms of one step; infinite where names differ or a term is NaN."""
    if ours.keys() != theirs.keys():
        return Difference(float("inf"), float("inf"))
    worst = {True: 0.0, False: 0.0}
    for name, truth in theirs.items():
        relative = float((ours[name].double() - truth.double()).abs() / truth.double().abs().clamp_min(1e-6))
        after = name in AFTER_GENERATOR
        worst[after] = max(worst[after], relative if relative == relative else float("inf"))
    return Difference(worst[False], worst[True])


def compare_steps(engine: Setting, steps: int) -> Difference:
    """Run naive and engine from one state, put the naive one back on the engine's after each step; the worst."""
    ours, theirs = prepare(engine), prepare(dataclasses.replace(engine, provider="naive"))
    worst = Difference()
    for _ in range(steps):
        follow(theirs, ours)
        found = difference(ours.step(), theirs.step())
        worst = Difference(max(worst.before, found.before), max(worst.after, found.after))
    return worst


def build_steps(setting: Setting, steps: int) -> Timed:
    """`steps` steps as one call, from names alone, in whatever process asks."""
    step = one_step(prepare(setting))
    return Timed(lambda _: [step(_) for _ in range(steps)])


def one_step(prepared: Prepared) -> Callable[[Any], Any]:
    """A step as something to be timed."""
    return lambda _: prepared.step()


@dataclass(frozen=True)
class Profile:
    """Of one setting, by phase: milliseconds a step, MiB of live tensors (CPU only); the profiler's operator table."""

    times: dict[str, float]
    live: dict[str, float]
    operators: str


def phases_of(prepared: Prepared, steps: int) -> Profile:
    """Time and live memory by phase."""
    plain = prepared.updates
    with engine_phases(prepared.networks, plain) if plain else nullcontext() as ranged:
        prepared.updates = ranged
        times, operators = profile_steps(prepared.step, steps=steps, device=device())
        live = live_memory(prepared.step) if device().type == "cpu" else {}
    prepared.updates = plain
    return Profile(times, live, operators)


def row_of(setting: Setting, found: Difference | None) -> Row:
    """What is known of a setting before it is timed."""
    width, height = setting.size
    return Row(
        op="adapt_step",
        provider=setting.name,
        direction="step",
        shape=f"{setting.arch} {width}x{height} B={setting.batch}",
        dtype=PRECISIONS[setting.precision],
        max_error=max(found.before, found.after) if found else None,
    )


def measure(
    found: list[Setting], *, seconds: float, least: int, memory: bool, steps: int
) -> tuple[list[Row], dict[str, Profile]]:
    """Rows of all settings of one case, and the phases of those that were right."""
    # the shared forward has other samples than naive, hence nothing to be compared with
    errors = {s: compare_steps(s, steps) if s.provider == "engine" else None for s in found}
    right = [s for s in found if (error := errors[s]) is None or error.is_right(s.precision)]
    prepared = {setting.label: prepare(setting) for setting in right}
    timed = {name: Timed(one_step(p)) for name, p in prepared.items()}
    times = time_in_turns(timed, device(), seconds=seconds, least=least, warmup=1 if device().type == "cpu" else 5)
    profiles = {
        setting.label: phases_of(prepared[setting.label], PROFILED_STEPS)
        for setting in right
        # the shared forward has the engine's phases in other places; ranges would break a compiled graph
        if setting.provider != "engine, shared forward" and not setting.compiled
    }
    del prepared
    gc.collect()
    rows = []
    for setting in found:
        row = row_of(setting, errors[setting])
        if setting not in right:
            rows.append(stamp(dataclasses.replace(row, note="wrong: losses differ from naive's, not timed")))
            continue
        peak = peak_memory_mb(build_steps, setting, MEMORY_STEPS, device=device()) if memory else None
        rows.append(stamp(timed_row(row, setting, times[setting.label], peak)))
    return rows, profiles


def timed_row(row: Row, setting: Setting, times: Quantiles, peak: float | None) -> Row:
    return dataclasses.replace(
        row,
        p20_ms=times.p20,
        p50_ms=times.p50,
        p80_ms=times.p80,
        peak_memory_mb=peak,
        images_per_second=setting.batch * 1e3 / times.p50,
        note="other samples than the paper's schedule" if setting.provider == "engine, shared forward" else "",
    )


def ratios(rows: list[Row]) -> list[str]:
    """One line for each timed row: speed and memory against the naive step of its precision."""
    naive = {row.dtype: row for row in rows if row.provider == "naive"}
    lines = []
    for row in rows:
        base = naive.get(row.dtype)
        if base is None or row is base or not (row.p50_ms and base.p50_ms):
            continue
        line = f"{row.shape}, {row.dtype}, {row.provider}: {base.p50_ms / row.p50_ms:.2f}x the images/s of naive"
        if row.peak_memory_mb and base.peak_memory_mb:
            line += f", {row.peak_memory_mb / base.peak_memory_mb:.2f}x its memory"
        lines.append(line)
    return lines


def phase_tables(profiles: dict[str, Profile]) -> str:
    """Milliseconds a step and, on a CPU, live memory by phase, one column a provider."""
    times = phase_table("phase, ms", {name: own.times for name, own in profiles.items()}, "sum", sum)
    if not any(own.live for own in profiles.values()):
        return times
    live = phase_table("phase, live MiB", {name: own.live for name, own in profiles.items()}, "peak", max)
    told = "Peak of live tensors in each phase, above those at the step's start (weights, optimizer states):"
    return f"{times}\n\n{told}\n\n{live}"


def phase_table(
    head: str, columns: dict[str, dict[str, float]], closing: str, of: Callable[[Iterable[float]], float]
) -> str:
    """One row a phase, one column a provider, and a last row `closing` that is `of` each column."""
    names = list(dict.fromkeys(phase for own in columns.values() for phase in own))
    body = [[name, *(f"{own.get(name, 0.0):.1f}" for own in columns.values())] for name in names]
    body.append([closing, *(f"{of(own.values()):.1f}" for own in columns.values())])
    return "\n".join(table([head, *columns], body))


def write_results(stem: Path, rows: list[Row], lines: list[str], tables: list[str]) -> None:
    """CSV of the rows; Markdown of rows, ratios to naive, and phases."""
    remark = (
        "Random weights, one batch. max error: largest relative difference of a loss term to naive's, over "
        f"{COMPARED_STEPS} steps, each from the same state.\n" + "".join(f"\n- {line}" for line in lines)
    )
    write_table(stem, rows, "Adaptation step", remark)
    with stem.with_suffix(".md").open("a") as file:
        file.write("\nWhere the time of a step goes, under the profiler:\n\n" + "\n\n".join(tables) + "\n")


def main(argv: list[str] | None = None) -> list[Row]:
    on_gpu = device().type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="streetnet", help="streetnet, deeplabv3_resnet50, ...")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 128), metavar=("W", "H"), help="target frames")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--output", default="benchmarks/results")
    parser.add_argument("--seconds", type=float, default=20.0, help="least time for all providers together")
    parser.add_argument("--rounds", type=int, default=5, help="least steps of each provider")
    parser.add_argument("--precision", nargs="+", choices=["no", "bf16"], default=["no", "bf16"][: 2 if on_gpu else 1])
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=on_gpu, help="torch.compile too")
    parser.add_argument("--quick", action="store_true", help="48x32 frames, a few steps: shows that it runs")
    arguments = parser.parse_args(argv)
    size = (48, 32) if arguments.quick else tuple(arguments.size)
    base = Setting(provider="naive", arch=arguments.arch, size=size, batch=arguments.batch)
    stem = Path(arguments.output) / f"adapt_step_{arguments.arch}_{device_slug()}"
    rows: list[Row] = []
    tables: list[str] = []
    lines: list[str] = []
    for group in groups(base, arguments.precision, compiled=arguments.compiled):
        own, profiles = measure(
            group,
            seconds=0.0 if arguments.quick else arguments.seconds,
            least=1 if arguments.quick else arguments.rounds,
            memory=not arguments.quick,
            steps=1 if arguments.quick else COMPARED_STEPS,
        )
        rows, lines, tables = rows + own, lines + ratios(own), [*tables, phase_tables(profiles)]
        write_results(stem, rows, lines, tables)  # after every group: a later one may take too long
        for name, profile in profiles.items():
            slug = name.replace(", ", "_").replace(" ", "_")
            stem.with_name(f"{stem.name}_{slug}_operators.txt").write_text(profile.operators)
    plot(stem.with_suffix(".csv"))
    print(stem.with_suffix(".md").read_text())
    return rows


if __name__ == "__main__":
    main()
