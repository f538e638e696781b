"""ENTRY `python -m benchmarks.arena`: networks x targets by the engine's defaults.

    python -m benchmarks.arena --network espnetv2:espnetv2_s10_camvid --weights W.pth \\
        --target FRAMES [LABELLED [WxH]] [--target ...] --output benchmarks/results/arena
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path

from benchmarks.arena.degrade import KINDS
from benchmarks.arena.run import Entry, Row, run
from benchmarks.arena.table import draw, lines
from benchmarks.common.csv_file import read_csv, write_csv

SPOILT: dict[str, tuple[str, ...]] = {
    "rate": ("--method.lr", "3e-2", "--run.steps", "30"),
    "max_square": ("--method.pseudo_label_weight", "0", "--method.max_square_weight", "1", "--method.lr", "1e-2"),
}
"""Settings that collapse, by the name that --spoilt takes."""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", required=True, help="module:factory, once for each --weights")
    parser.add_argument("--weights", action="append", required=True, type=Path, help="of the --network before it")
    parser.add_argument(
        "--target",
        action="append",
        required=True,
        nargs="+",
        metavar="FRAMES [LABELLED [WxH]]",
        help="folder of frames to adapt on; of labelled ones (images/, labels/); the size, else it is chosen",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--degrade", choices=KINDS, nargs="*", default=[], help="also run on each target made worse so")
    parser.add_argument("--spoilt", choices=SPOILT, nargs="*", default=[], help="also run with settings that collapse")
    parser.add_argument("--ceilings", action="store_true", help="score the best view by labels and the oracle as well")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/arena"), help="stem of .csv, .md, .png")
    options = parser.parse_args(argv)
    if len(options.network) != len(options.weights):
        parser.error("give one --weights for each --network")
    return options


def entries(options: argparse.Namespace) -> list[Entry]:
    """Every run, in the order in which it is done."""
    settings = [(), *(SPOILT[name] for name in options.spoilt)]
    return [
        Entry(arch, weights, *places(target), seed, kind, options.ceilings, overrides)
        for arch, weights in zip(options.network, options.weights, strict=True)
        for target in options.target
        for kind in (None, *options.degrade)
        for seed in options.seeds
        for overrides in settings
    ]


def places(target: list[str]) -> tuple[Path, Path, tuple[int, int] | None]:
    """Frames, labelled frames and stated size of a --target."""
    frames = Path(target[0])
    labelled = Path(target[1]) if len(target) > 1 else frames
    width, _, height = target[2].partition("x") if len(target) > 2 else ("", "", "")
    return frames, labelled, (int(width), int(height)) if height else None


def main(argv: list[str] | None = None) -> int:
    """Run what the CSV does not hold yet, one row after another; write CSV, table and picture after each."""
    options = parse(argv)
    path = options.output.with_suffix(".csv")
    rows = read_csv(path, Row) if path.exists() else []
    done = {key(row.network, row.target, row.seed, row.settings) for row in rows}
    for entry in entries(options):
        settings = " ".join(entry.overrides)
        if key(entry.weights.stem, entry.target, entry.seed, settings) in done:
            continue
        try:
            row = run(entry)
        except subprocess.CalledProcessError as error:
            print(f"{entry.weights.stem} on {entry.target} failed:\n{error.stderr[-2000:]}", file=sys.stderr)
            continue
        rows.append(row)
        print(f"{row.network} on {row.target}: {row.source:.1f} -> {row.adapted:.1f} ({row.verdict})", flush=True)
        write_csv(path, [dataclasses.asdict(one) for one in rows])
        options.output.with_suffix(".md").write_text("\n".join(lines(rows)) + "\n")
        draw([one for one in rows if not one.settings], options.output.with_suffix(".png"))
    return 0


def key(network: str, target: str, seed: int, settings: str) -> tuple[str, str, int, str]:
    return network, target, seed, settings


if __name__ == "__main__":
    sys.exit(main())
