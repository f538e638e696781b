"""Options that the subcommands share."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

from sfda_runtime.session import SessionOptions


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL and the options of its session."""
    parser.add_argument("model", metavar="MODEL", help="bundle folder, or one .onnx file of it")
    group = parser.add_argument_group("onnxruntime")
    group.add_argument(
        "--providers",
        default="cpu",
        metavar="LIST",
        help="cpu, cuda, tensorrt: preferred first, by commas; all must really be in use (default: cpu)",
    )
    group.add_argument("--allow-fallback", action="store_true", help="run on the CPU where a provider is missing")
    group.add_argument("--threads", type=at_least(1), default=1, help="threads within an operator (default: 1)")
    group.add_argument("--spinning", action="store_true", help="let idle threads spin; costs CPU time (default: off)")
    group.add_argument("--device", type=at_least(0), default=0, help="number of the GPU (default: 0)")
    group.add_argument("--engine-cache", type=Path, metavar="DIR", help="TensorRT's engines (default: ~/.cache)")
    group.add_argument("--sha256", metavar="HEX", help="refuse any other model file than this one")


def session_options(args: argparse.Namespace) -> SessionOptions:
    """The session that the options ask for. UsageError for a provider that does not exist."""
    return SessionOptions(
        providers=tuple(name.strip() for name in args.providers.split(",") if name.strip()),
        threads=args.threads,
        spinning=args.spinning,
        allow_fallback=args.allow_fallback,
        device=args.device,
        engine_cache=args.engine_cache,
    )


def at_least(minimum: int) -> Callable[[str], int]:
    """An argparse type: a whole number not below `minimum`."""

    def whole_number(text: str) -> int:
        if not re.fullmatch(r"\d+", text) or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"a whole number from {minimum} on, not {text!r}")
        return int(text)

    return whole_number


def positive(text: str) -> float:
    """An argparse type: a finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf):
        raise argparse.ArgumentTypeError(f"a number above zero, not {text!r}")
    return value


def rates(text: str) -> list[float]:
    """An argparse type: positive numbers by commas."""
    return [positive(part) for part in text.split(",") if part.strip()]


def share(text: str) -> float:
    """An argparse type: a share from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 <= value <= 1):
        raise argparse.ArgumentTypeError(f"a share from 0 to 1, not {text!r}")
    return value


def size(text: str) -> tuple[int, int]:
    """An argparse type: WxH in pixels."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"WxH in pixels, like 960x720, not {text!r}")
    return int(match[1]), int(match[2])
