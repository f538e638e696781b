"""The command line of `to_onnx`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sfda_engine.data.images import ImageSize
from sfda_engine.errors import UserError
from sfda_export.onnx_file import OPSETS
from sfda_export.reduce import TOLERANCES
from sfda_runtime.card import Precision


@dataclass(frozen=True, kw_only=True)
class Options:
    """The command line; see --help."""

    run: str
    output: Path
    opset: int = 20
    size: ImageSize | None = None
    fixed: bool = False
    logits: bool = False
    self_adapting: bool = False
    precision: Precision = "fp32"
    frames: str | None = None
    labels: str | None = None
    overrides: tuple[str, ...] = ()


def size_text(text: str) -> ImageSize:
    """ "WxH" -> (width, height)."""
    width, _, height = text.lower().partition("x")
    try:
        return ImageSize(int(width), int(height))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write width x height, for example 512x256") from None


def parse(argv: Sequence[str]) -> Options:
    """The command line as `Options`; argparse ends with code 2 on a mistake."""
    parser = argparse.ArgumentParser(
        prog="sfda export",
        description="Export an adapted model (or any weights file) as a bundle of ONNX files. Before the bundle is "
        "left, its files are compared with the engine's own model on real frames in onnxruntime.",
        epilog="--model.KEY VALUE: any other key of section model of the engine's configuration, for weights that do "
        "not describe themselves, for example --model.normalization.channel_order bgr. Exit codes: 0 done; 2 a "
        "mistake in the call; 1 the files differ from the model, or a fault of ours; 130 interrupted. A bundle is "
        "left on 0 alone.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", help="run folder, weights file, or package:demo_source")
    parser.add_argument("--output", metavar="DIR", type=Path, required=True, help="folder to make; empty or absent")
    parser.add_argument("--opset", type=int, default=20, choices=OPSETS, help="ONNX opset (default %(default)s)")
    parser.add_argument("--size", metavar="WxH", type=size_text, help="network size; default: the one adapted at")
    parser.add_argument(
        "--fixed", metavar="WxH", type=size_text, help="one frame of this size only, as TensorRT likes it"
    )
    parser.add_argument("--logits", action="store_true", help="ship model_logits.onnx too")
    parser.add_argument(
        "--self-adapting",
        action="store_true",
        help="add a graph whose BatchNorm statistics follow the frames in the vehicle (float32 only)",
    )
    parser.add_argument("--precision", choices=["fp32", *TOLERANCES], default="fp32", help="default %(default)s")
    parser.add_argument(
        "--frames",
        metavar="DIR",
        help="frames to compare on, or scenes:DOMAIN; default: the run's own target frames",
    )
    parser.add_argument(
        "--labels",
        metavar="DIR",
        help="folder with images/ and labels/ to report the mIoU of both sides on; default: the run's evaluation set. "
        "Labels are reported on, and refuse an fp16 or INT8 file that loses too much; nothing is fitted to them",
    )
    parser.add_argument("--arch", help="architecture of weights that do not say it, as in sfda_engine.evaluate")
    parser.add_argument("--num-classes", metavar="K", help="their number of classes")
    own, overrides = split_model_keys(argv)
    known = parser.parse_args(own)
    if known.size and known.fixed:
        parser.error("--size and --fixed name the size twice; give one of them")
    if known.self_adapting and known.precision != "fp32":
        parser.error("--self-adapting needs fp32: other precisions have BatchNorm folded into their weights")
    for key, value in {"arch": known.arch, "num_classes": known.num_classes}.items():
        overrides += [f"--model.{key}", value] if value else []
    return Options(
        run=known.run,
        output=known.output.expanduser(),
        opset=known.opset,
        size=known.fixed or known.size,
        fixed=known.fixed is not None,
        logits=known.logits,
        self_adapting=known.self_adapting,
        precision=known.precision,
        frames=known.frames,
        labels=known.labels,
        overrides=tuple(overrides),
    )


def split_model_keys(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take --model.KEY VALUE (or =VALUE) out of a command line: what is left, and what was taken."""
    own, taken = [], []
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        if not token.startswith("--model."):
            own.append(token)
            continue
        if token.startswith("--model.weights"):
            raise UserError("--model.weights: RUN itself names the weights; leave the option out")
        taken.append(token)
        if "=" not in token and tokens:
            taken.append(tokens.pop(0))
    return own, taken
