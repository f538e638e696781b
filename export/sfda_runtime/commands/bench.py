"""Measure latency, memory and CPU share on this machine: the latency card.

First back to back, for the quantiles; then paced at each rate, for what a camera's loop costs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfda_runtime import measure
from sfda_runtime.commands import options
from sfda_runtime.errors import UsageError
from sfda_runtime.files import to_json
from sfda_runtime.frames import Limits
from sfda_runtime.pacing import pace
from sfda_runtime.results import Status
from sfda_runtime.segmenter import Segmenter
from sfda_runtime.sources import Frame, open_source

HELD_FRAMES = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sfda-infer bench`."""
    options.add_model(parser)
    parser.add_argument("--source", help=f"frames as for run, the first {HELD_FRAMES} (default: synthetic)")
    parser.add_argument("--size", type=options.size, metavar="WxH", help="of synthetic frames (default: the network's)")
    parser.add_argument("--frames", type=options.at_least(1), default=1000, help="back to back (default: 1000)")
    parser.add_argument(
        "--fps", type=options.rates, default="10,30", metavar="LIST", help="paced rates, by commas (default: 10,30)"
    )
    parser.add_argument("--seconds", type=options.positive, default=5.0, help="of each paced rate (default: 5)")
    parser.add_argument("--warm-up", type=options.at_least(1), default=10, metavar="N", help="frames (default: 10)")
    parser.add_argument("--diagnostics", action="store_true", help="the graph with confidence and entropy")
    parser.add_argument("--json", action="store_true", help="print the card as JSON")


def execute(args: argparse.Namespace) -> int:
    """Run `sfda-infer bench`."""
    segmenter = Segmenter.load(
        args.model,
        diagnostics=args.diagnostics,
        sha256=args.sha256,
        session=options.session_options(args),
        warm_up=0,
        limits=Limits(frozen_after=0),
    )
    width, height = args.size or segmenter.card.size
    source = open_source(args.source or f"synthetic:{width}x{height}@{HELD_FRAMES}")
    frames = [frame.read() for frame in islice(source.frames, HELD_FRAMES)]
    warm_up = segmenter.warm_up(args.warm_up)
    card = {
        **measure.describe_session(segmenter.model, args.threads, args.spinning),
        "frame_size": list(frames[0].shape[1::-1]),
        "load_ms": round(segmenter.model.load_ms, 1),
        "first_run_ms": round(warm_up[0], 3),
        "back_to_back": back_to_back(segmenter, frames, args.frames, args.fps),
        "paced": [paced(segmenter, frames, fps, args.seconds) for fps in args.fps],
    }
    print(to_json(card) if args.json else table(card))
    return 0


def back_to_back(
    segmenter: Segmenter, frames: Sequence[NDArray[Any]], count: int, rates: Sequence[float]
) -> dict[str, Any]:
    """Latency of `count` frames one after the other, split by part, with memory and CPU share."""
    latencies, parts, memory = [], [], []
    start, cpu = time.perf_counter(), time.process_time()
    for number in range(count):
        result = segmenter(frames[number % len(frames)])
        if result.status is not Status.OK:
            raise UsageError(f"a frame to be measured was refused: {result.reason}; name another --source")
        latencies.append(result.latency_ms)
        parts.append(result.split_ms)
        memory.append(measure.rss_mb())
    wall = time.perf_counter() - start
    pre, network, post = np.median(parts, axis=0)
    late = {f"{fps:g}": round(float(np.mean(np.asarray(latencies) > 1e3 / fps)), 4) for fps in rates}
    slope = measure.slope_per_thousand(range(count), memory)
    return {
        "latency_ms": measure.quantiles(latencies),
        "split_ms": {"pre": round(pre, 3), "network": round(network, 3), "post": round(post, 3)},
        "late_share": late,
        "cpu_share": round((time.process_time() - cpu) / wall, 3),
        "rss_mb": {"start": round(memory[0], 1), "end": round(memory[-1], 1), "per_1000_frames": slope},
    }


def paced(segmenter: Segmenter, frames: Sequence[NDArray[Any]], fps: float, seconds: float) -> dict[str, Any]:
    """A camera's loop of so many seconds: late and dropped frames, jitter of the answers, CPU share."""
    count = max(2, round(fps * seconds))
    stream = (Frame(str(n), partial(frames.__getitem__, n % len(frames))) for n in range(count))
    latencies, answered, dropped = [], [], 0
    start, cpu = time.perf_counter(), time.process_time()
    for arrival in pace(stream, fps):
        latencies.append(segmenter(arrival.frame.read()).latency_ms)
        answered.append(time.perf_counter())
        dropped += arrival.dropped
    wall = time.perf_counter() - start
    return {
        "fps": fps,
        "latency_ms": measure.quantiles(latencies),
        "late": int(np.sum(np.asarray(latencies) > 1e3 / fps)),
        "dropped": dropped,
        "interval_std_ms": round(1e3 * float(np.std(np.diff(answered))), 3) if len(answered) > 2 else None,
        "cpu_share": round((time.process_time() - cpu) / wall, 3),
    }


def table(card: dict[str, Any]) -> str:
    """The card for people."""
    run, split = card["back_to_back"], card["back_to_back"]["split_ms"]
    rows = [
        ("model", f"{card['arch']} {card['graph']} {card['precision']} {card['sha256'][:16]}"),
        ("frame, network", f"{_by(card['frame_size'])}, {_by(card['size'])}"),
        (
            "provider",
            f"{card['provider']} {card['nodes'] or ''}, threads {card['threads']}, spinning {card['spinning']}",
        ),
        ("versions", " ".join(f"{name} {version}" for name, version in card["versions"].items())),
        (
            "machine",
            f"{card['machine']['cpu']}, {card['machine']['cores']} cores, {' '.join(card['machine']['vectors'])}",
        ),
        ("load, first run", f"{card['load_ms']} ms, {card['first_run_ms']} ms"),
        ("back to back", _quantiles(run["latency_ms"])),
        ("split p50", f"pre {split['pre']}  network {split['network']}  post {split['post']} ms"),
        ("late share", "  ".join(f"{value:.2%} at {fps} fps" for fps, value in run["late_share"].items()) or "-"),
        ("CPU share", f"{run['cpu_share']:.0%}"),
        ("memory", f"{run['rss_mb']['start']} to {run['rss_mb']['end']} MB"),
    ]
    for loop in card["paced"]:
        detail = f"{_quantiles(loop['latency_ms'])}; late {loop['late']}, dropped {loop['dropped']}"
        rows.append(
            (
                f"paced {loop['fps']:g} fps",
                f"{detail}, interval std {loop['interval_std_ms']} ms, CPU share {loop['cpu_share']:.0%}",
            )
        )
    return "\n".join(f"{name:16} {text}" for name, text in rows)


def _quantiles(latency: dict[str, Any]) -> str:
    p99 = "-" if latency["p99"] is None else latency["p99"]
    return (
        f"p50 {latency['p50']}  p95 {latency['p95']}  p99 {p99}  max {latency['max']} ms  "
        f"jitter {latency['jitter']} ms  n {latency['n']}"
    )


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
