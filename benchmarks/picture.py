"""ENTRY `python -m benchmarks.picture RUN FILE.png`: frames of a run side by side, as the README shows them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

CELLS = ("frame", "source", "adapted", "label")
HEIGHT, GAP = 180, 6


def montage(run: Path, count: int) -> Image.Image:
    """Rows of the first `count` frames in the report of `run`: frame, source, what ships, truth.

    Raises FileNotFoundError where the run has no labelled frames.
    """
    names = sorted(path.name.removesuffix("_frame.png") for path in (run / "figures" / "frames").glob("*_frame.png"))
    rows = [
        [Image.open(run / "figures" / "frames" / f"{name}_{cell}.png").convert("RGB") for cell in CELLS]
        for name in names[:count]
    ]
    if not rows:
        raise FileNotFoundError(f"{run} has no frames in its report")
    width = round(rows[0][0].width * HEIGHT / rows[0][0].height)
    whole = Image.new("RGB", (len(CELLS) * (width + GAP) - GAP, len(rows) * (HEIGHT + GAP) - GAP), "white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            place = column * (width + GAP), row * (HEIGHT + GAP)
            whole.paste(picture.resize((width, HEIGHT), Image.Resampling.NEAREST), place)
    return whole


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder of adapt, with labels given")
    parser.add_argument("file", type=Path)
    parser.add_argument("--frames", type=int, default=2)
    options = parser.parse_args(argv)
    montage(options.run, options.frames).save(options.file, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
