"""Segment a stream of frames into pictures and frames.jsonl.

OUT/labels/NAME.png    index PNG: the pixel is the class, 255 where there is none
OUT/overlay/NAME.png   the frame under its labels      (--save overlay)
OUT/entropy/NAME.png   heat map of the entropy         (--save entropy; takes the bundle's diagnostics graph)
OUT/frames.jsonl       one line a frame, written as soon as it is done
OUT/summary.json       written last
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfda_runtime import measure, pictures
from sfda_runtime.adaptive import AdaptiveSegmenter
from sfda_runtime.commands import options
from sfda_runtime.errors import InputError, ModelError, UsageError
from sfda_runtime.files import Lines, make_output, to_json, write_whole
from sfda_runtime.frames import Limits
from sfda_runtime.pacing import Arrival, every_frame, newest, pace
from sfda_runtime.segmenter import LabelSize, Result, Segmenter, Status
from sfda_runtime.sources import open_source

PICTURES = ("index", "overlay", "entropy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `sfda-infer run`."""
    options.add_model(parser)
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder, glob (quoted), image, .npy (N, H, W, 3), video, camera:N, or synthetic:WxH@n",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="new or empty folder")
    parser.add_argument("--save", default="index", metavar="LIST", help=f"of {', '.join(PICTURES)} (default: index)")
    parser.add_argument(
        "--label-size",
        type=_label_size,
        default="frame",
        metavar="SIZE",
        help="frame (default) | network | WxH: size of the label maps, by nearest neighbor from the network's",
    )
    parser.add_argument("--max-frames", type=options.at_least(1), metavar="N", help="stop after N frames")
    parser.add_argument("--fps", type=options.positive, help="pace stored frames like a camera, newer frame wins")
    parser.add_argument("--deadline-ms", type=options.positive, help="a slower frame is late (default: 1000 / fps)")
    parser.add_argument("--on-error", choices=("ignore", "hold"), default="ignore", help="255, or the last good labels")
    parser.add_argument(
        "--max-age", type=options.at_least(1), default=5, metavar="N", help="frames to hold (default: 5)"
    )
    parser.add_argument(
        "--frozen-after",
        type=options.at_least(0),
        default=30,
        metavar="N",
        help="refuse a picture from its N-th repetition on; 0 never (default: 30)",
    )
    parser.add_argument("--adapt", action="store_true", help="let the model follow the frames (model_adaptive.onnx)")
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="with --adapt: go on from this state, where it exists; left at the end",
    )
    parser.add_argument("--max-bad-share", type=options.share, default=0.1, help="more is exit 5 (default: 0.1)")
    parser.add_argument("--max-late-share", type=options.share, default=0.1, help="more is exit 6 (default: 0.1)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def execute(args: argparse.Namespace) -> int:
    """Run `sfda-infer run`. Whatever ends it, frames.jsonl tells what was done."""
    saved = _pictures(args.save)
    deadline = args.deadline_ms or (1e3 / args.fps if args.fps else None)
    segmenter = load_segmenter(args, saved, deadline)
    if "entropy" in saved and segmenter.card.graph not in ("diagnostics", "adaptive"):
        raise UsageError(f"{args.model} has no entropy; name the bundle's folder or its model_diag.onnx")
    import_module("PIL.Image")  # now, not within the first frame's time
    arrivals = _arrivals(args.source, args.fps, args.max_frames)
    output = make_output(args.output)
    lines = Lines(output / "frames.jsonl")
    tally = Tally()
    try:
        for arrival in arrivals:
            frame, result = segment(segmenter, arrival)
            save_pictures(output, saved, frame, result, segmenter)
            lines.write(line(result, arrival.dropped))
            tally.add(result, arrival.dropped)
    finally:
        lines.close()
        if isinstance(segmenter, AdaptiveSegmenter) and args.state is not None:
            segmenter.save_state(args.state)
    summary = {
        **measure.describe_session(segmenter.model, args.threads, args.spinning),
        "source": args.source,
        "fps": args.fps,
        "deadline_ms": deadline,
        **tally.summary(),
    }
    write_whole(output / "summary.json", to_json(summary).encode())
    print(to_json(summary) if args.json else tally.text(output))
    return tally.exit_code(args.max_bad_share, args.max_late_share)


def load_segmenter(args: argparse.Namespace, saved: set[str], deadline: float | None) -> Segmenter:
    """The bundle's labels or diagnostics graph, or with --adapt its self-adapting one, at the state of --state."""
    settings: dict[str, Any] = {
        "sha256": args.sha256,
        "session": options.session_options(args),
        "deadline_ms": deadline,
        "on_error": args.on_error,
        "max_age_frames": args.max_age,
        "label_size": args.label_size,
        "limits": Limits(frozen_after=args.frozen_after),
    }
    if not args.adapt:
        if args.state is not None:
            raise UsageError("--state is the state of a self-adapting model: add --adapt")
        diagnostics = "entropy" in saved and Path(args.model).is_dir()
        return Segmenter.load(args.model, diagnostics=diagnostics, **settings)
    segmenter = AdaptiveSegmenter.load(args.model, **settings)
    if args.state is not None and args.state.exists():
        segmenter.load_state(args.state)
    elif args.state is not None and not args.state.parent.is_dir():
        raise UsageError(f"the state cannot be written to {args.state}: there is no folder {args.state.parent}")
    return segmenter


def segment(segmenter: Segmenter, arrival: Arrival) -> tuple[NDArray[Any] | None, Result]:
    """Decode and segment one frame; None for one that cannot be decoded."""
    try:
        frame = arrival.frame.read()
    except InputError as error:
        return None, segmenter.reject(str(error), arrival.frame.name)
    return frame, segmenter(frame, arrival.frame.name)


def save_pictures(
    output: Path, saved: set[str], frame: NDArray[Any] | None, result: Result, segmenter: Segmenter
) -> None:
    """Write what was asked for; an overlay only of a frame that is a picture."""
    palette, name = segmenter.card.palette, f"{result.frame_id}.png"
    if "index" in saved:
        write_whole(output / "labels" / name, pictures.index_png(result.labels, palette))
    if "overlay" in saved and frame is not None and frame.dtype == np.uint8 and frame.size and frame.shape[2:] == (3,):
        write_whole(output / "overlay" / name, pictures.overlay_png(frame, result.labels, palette))
    if "entropy" in saved and result.entropy is not None:
        write_whole(output / "entropy" / name, pictures.heat_png(result.entropy))


def line(result: Result, dropped: int) -> dict[str, Any]:
    """One line of frames.jsonl: times in milliseconds, `dropped` the frames lost just before this one."""
    pre, network, post = (round(part, 3) for part in result.split_ms)
    return {
        "frame": result.frame_id,
        "status": result.status.value,
        "fault": result.fault and result.fault.value,
        "reason": result.reason,
        "age": result.age,
        "latency_ms": round(result.latency_ms, 3),
        "pre_ms": pre,
        "network_ms": network,
        "post_ms": post,
        "dropped": dropped,
    }


class Tally:
    """Counts of a run, and the exit code that they ask for."""

    def __init__(self) -> None:
        self.status: Counter[Status] = Counter()
        self.fault: Counter[Status] = Counter()
        self.latencies: list[float] = []
        self.dropped = 0

    def add(self, result: Result, dropped: int) -> None:
        """Count one frame. Only frames that the network saw have a latency worth the name."""
        self.status[result.status] += 1
        self.dropped += dropped
        if result.fault is not None:
            self.fault[result.fault] += 1
        if result.fault in (None, Status.DEADLINE_MISS, Status.STATE_REJECTED):
            self.latencies.append(result.latency_ms)

    @property
    def frames(self) -> int:
        return sum(self.status.values())

    def share(self, fault: Status) -> float:
        """Share of all frames with this fault."""
        return self.fault[fault] / self.frames if self.frames else 0.0

    def exit_code(self, max_bad_share: float, max_late_share: float) -> int:
        """The gravest first: no model, no input, no time."""
        if self.fault[Status.MODEL_ERROR]:
            return ModelError.exit_code
        if self.share(Status.BAD_INPUT) > max_bad_share:
            return InputError.exit_code
        return 6 if self.share(Status.DEADLINE_MISS) > max_late_share else 0

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "frames": self.frames,
            "dropped": self.dropped,
            "status": {status.value: self.status[status] for status in Status if self.status[status]},
            "bad_share": round(self.share(Status.BAD_INPUT), 4),
            "late_share": round(self.share(Status.DEADLINE_MISS), 4),
            "latency_ms": measure.quantiles(self.latencies),
        }

    def text(self, output: Path) -> str:
        """For people."""
        counts = ", ".join(f"{count} {name}" for name, count in self.summary()["status"].items()) or "none"
        latency = measure.quantiles(self.latencies)
        return (
            f"{self.frames} frames ({counts}), {self.dropped} dropped; "
            f"p50 {latency['p50']} ms, p95 {latency['p95']} ms, n {latency['n']}; written to {output}"
        )


def _arrivals(source: str, fps: float | None, max_frames: int | None) -> Iterator[Arrival]:
    stream = open_source(source)
    frames = islice(stream.frames, max_frames)
    if stream.live:
        return newest(frames)
    return pace(frames, fps) if fps else every_frame(frames)


def _pictures(text: str) -> set[str]:
    names = {name.strip() for name in text.split(",") if name.strip()}
    if unknown := sorted(names - set(PICTURES)):
        raise UsageError(f"--save knows {', '.join(PICTURES)}, not {', '.join(unknown)}")
    return names


def _label_size(text: str) -> LabelSize:
    match text:
        case "frame" | "network":
            return text
        case _:
            return options.size(text)
