"""Run for minutes with faults injected: statuses, golden labels and memory must hold.

Every m-th frame is a fault, of all kinds in turn. Exit 1 where an assertion fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfda_runtime import measure
from sfda_runtime.card import IGNORE
from sfda_runtime.commands import options
from sfda_runtime.commands.verify import read_golden
from sfda_runtime.errors import InputError
from sfda_runtime.faults import FROZEN_AFTER, Shot, fault, good
from sfda_runtime.files import to_json
from sfda_runtime.frames import Limits
from sfda_runtime.results import Result, Status
from sfda_runtime.segmenter import Network, Segmenter, run_network
from sfda_runtime.sources import synthetic_picture

GOLDEN_EVERY = 50
MEMORY_EVERY = 10
MAX_MB_PER_1000 = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sfda-infer soak`."""
    options.add_model(parser)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=options.positive, help="how long")
    length.add_argument("--frames", type=options.at_least(1), help="how many")
    parser.add_argument("--every", type=options.at_least(2), default=7, metavar="M", help="a fault (default: 7)")
    parser.add_argument("--size", type=options.size, metavar="WxH", help="of the frames (default: the network's)")
    parser.add_argument(
        "--warm-up",
        type=options.at_least(1),
        default=200,
        metavar="N",
        help="frames before memory counts (default: 200)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def execute(args: argparse.Namespace) -> int:
    """Run `sfda-infer soak`."""
    segmenter = Segmenter.load(
        args.model,
        sha256=args.sha256,
        session=options.session_options(args),
        limits=Limits(frozen_after=FROZEN_AFTER),
    )
    width, height = args.size or segmenter.card.size
    golden = golden_labels(segmenter)
    record = Record(args.warm_up)
    end = time.monotonic() + 60 * args.minutes if args.minutes else None
    interrupted = False
    try:
        for number, shot in enumerate(shots((width, height), args.every)):
            if time.monotonic() >= end if end is not None else number >= args.frames:
                break
            record.add(shot, answer(segmenter, shot))
            if number % GOLDEN_EVERY == 0:
                record.golden += 1
                record.golden_changed += not golden()
    except KeyboardInterrupt:
        interrupted = True
        print("interrupted; the report covers the frames so far", file=sys.stderr)
    report = record.report()
    failures = record.failures(report)
    described = measure.describe_session(segmenter.model, args.threads, args.spinning)
    print(to_json({**described, **report, "failures": failures}) if args.json else text(report, failures))
    return 1 if failures else 130 * interrupted


def shots(size: tuple[int, int], every: int) -> Iterator[Shot]:
    """An endless moving picture in which each `every`-th place is taken by a fault."""
    faults = count()
    for number in count():
        frame = synthetic_picture(*size, number)
        if (number + 1) % every == 0:
            yield from fault(next(faults), frame)
        else:
            yield good(frame)


def answer(segmenter: Segmenter, shot: Shot) -> Result:
    """The result of a shot, through `reject` where its frame cannot be read."""
    try:
        frame = shot.read()
    except InputError as error:
        return segmenter.reject(str(error))
    return segmenter(frame)


def golden_labels(segmenter: Segmenter) -> Callable[[], bool]:
    """A function that runs the next golden frame and tells whether its labels are those of the start.

    The frames are the bundle's; a lone file is given a synthetic one.
    """
    manifest, (width, height) = segmenter.model.manifest, segmenter.card.size
    frames = [read_golden(manifest, golden)[0] for golden in manifest.golden] if manifest else []
    frames = frames or [synthetic_picture(width, height, 0)]
    network: Network = run_network(segmenter.model)
    start: list[NDArray[np.uint8]] = [network(frame[None]).labels for frame in frames]
    turn = count()

    def unchanged() -> bool:
        which = next(turn) % len(frames)
        return bool((network(frames[which][None]).labels == start[which]).all())

    return unchanged


class Record:
    """What a soak has seen."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.frames = 0
        self.kinds: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.memory: list[tuple[int, float]] = []
        self.golden = 0
        self.golden_changed = 0

    def add(self, shot: Shot, result: Result) -> None:
        """Count one answer. A fault must be named as one, and must show no class anywhere."""
        self.kinds[shot.kind] += 1
        right = result.status == shot.expected
        if shot.expected is not Status.OK:
            right = right and bool((result.labels == IGNORE).all())
        else:
            right = right and bool((result.labels != IGNORE).all())
            self.latencies.append(result.latency_ms)
        self.wrong[shot.kind] += not right
        self.frames += 1
        if self.frames > self.warm_up and self.frames % MEMORY_EVERY == 0:
            self.memory.append((self.frames, measure.rss_mb()))

    def report(self) -> dict[str, Any]:
        """For JSON. `p95_drift` is p95 of the last tenth over that of the first: told, not asserted."""
        tenth = max(1, len(self.latencies) // 10)
        slope = measure.slope_per_thousand([n for n, _ in self.memory], [mb for _, mb in self.memory])
        parts = [np.quantile(part, 0.95) for part in (self.latencies[:tenth], self.latencies[-tenth:]) if part]
        return {
            "frames": self.frames,
            "faults": sum(n for kind, n in self.kinds.items() if kind != "good"),
            "kinds": dict(self.kinds),
            "wrong": {kind: n for kind, n in self.wrong.items() if n},
            "golden": self.golden,
            "golden_changed": self.golden_changed,
            "rss_mb": [round(self.memory[0][1], 1), round(self.memory[-1][1], 1)] if self.memory else None,
            "rss_mb_per_1000_frames": None if slope is None else round(slope, 4),
            "latency_ms": measure.quantiles(self.latencies),
            "p95_drift": round(float(parts[1] / parts[0]), 3) if parts else None,
        }

    def failures(self, report: dict[str, Any]) -> list[str]:
        """The assertions that do not hold, in words."""
        slope = report["rss_mb_per_1000_frames"]
        return [
            *(f"{n} wrong answers to frames of kind {kind!r}" for kind, n in report["wrong"].items()),
            *([f"golden labels changed {self.golden_changed} times"] if self.golden_changed else []),
            *([f"memory grows by {slope} MB in 1000 frames"] if slope is not None and slope > MAX_MB_PER_1000 else []),
        ]


def text(report: dict[str, Any], failures: list[str]) -> str:
    """The report for people."""
    latency, memory = report["latency_ms"], report["rss_mb"]
    slope = report["rss_mb_per_1000_frames"]
    return "\n".join(
        [
            f"{report['frames']} frames, {report['faults']} of them faults of {len(report['kinds']) - 1} kinds; "
            f"{sum(report['wrong'].values())} wrong answers",
            f"golden labels compared {report['golden']} times, changed {report['golden_changed']} times",
            f"memory {memory[0]} to {memory[1]} MB, {slope} MB in 1000 frames" if memory else "memory: run too short",
            f"p50 {latency['p50']} ms, p95 {latency['p95']} ms, n {latency['n']}; p95 drift {report['p95_drift']}",
            *(f"FAILED: {failure}" for failure in failures),
            *([] if failures else ["passed"]),
        ]
    )
