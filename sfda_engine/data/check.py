"""ENTRY `python -m sfda_engine.data.check ROOT`: what a published data set on disk lacks, before a long run.

Every file is looked up, paired, counted and seen to its end; a sample of each split (`--all`: everything) is decoded
and its values compared with what its label format defines. Exit code 0 fine, 2 with a list of what is wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sfda_engine.data.datasets import LAYOUTS
from sfda_engine.data.frame_files import undefined_value
from sfda_engine.data.images import DECODING_ERRORS, ImageSize, cut_short, decode_rgb, open_image
from sfda_engine.data.published.layout import Layout, Pair, archives_in, expected_label, pair_of, recognizes
from sfda_engine.errors import UserError
from sfda_engine.exit_codes import run_entry

SAMPLE = 32
SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong; findings of a kind are printed together."""

    kind: str
    text: str


@dataclass(frozen=True)
class Split:
    """What is on disk of one split: its frames, and the pairs of those that have a label."""

    name: str
    official: int | None
    frames: list[Path]
    pairs: list[Pair] | None = None


def recognize(root: Path) -> Layout:
    """The data set whose marks a folder has. Raises UserError where it has none, or those of several."""
    found = [layout for layout in LAYOUTS.values() if recognizes(layout, root)]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(layout.name for layout in found)
        raise UserError(f"{root} looks like {names}: say which with --dataset NAME")
    archives = [path.name for path in archives_in(root)]
    inner = [
        path for path in sorted(root.iterdir()) if path.is_dir() and any(recognizes(i, path) for i in LAYOUTS.values())
    ]
    raise UserError(
        f"{root} looks like none of {', '.join(LAYOUTS)}"
        + (f"; {', '.join(archives[:3])} there is not extracted" if archives else "")
        + (f"; {inner[0]} does: give that folder" if inner else "")
        + "; --dataset NAME tells what a data set should look like"
    )


def splits_on_disk(layout: Layout, root: Path) -> list[Split]:
    """Every official split: frames for adaptation, and frames with labels (the same files but for Cross-City)."""
    splits = []
    for name, official in layout.splits.items():
        frames = sorted(layout.find(root, name))
        if layout.find_labelled is None and name in layout.labelled:
            splits.append(Split(name, official, frames, _pairs(layout, root, frames)))
        else:
            splits.append(Split(name, official, frames))
    if layout.find_labelled is not None:
        for name, official in layout.labelled.items():
            frames = sorted(layout.find_labelled(root, name))
            splits.append(Split(f"{name}, labelled", official, frames, _pairs(layout, root, frames)))
    return splits


def _pairs(layout: Layout, root: Path, frames: list[Path]) -> list[Pair]:
    return [pair for frame in frames if (pair := pair_of(layout, root, frame)) is not None]


def check_counts(split: Split) -> Iterable[Finding]:
    """Frames against the official number. A split without labels may be absent altogether."""
    found = len(split.frames)
    if found == 0 and split.pairs is not None:
        yield Finding("missing", f"split {split.name}: no frame")
    elif found and split.official is not None and found != split.official:
        yield Finding("missing", f"split {split.name}: {found} frames, officially {split.official}")


def check_pairs(layout: Layout, root: Path, split: Split) -> Iterable[Finding]:
    """Frames without a label, but those that are known to lack one."""
    labelled = {pair.frame for pair in split.pairs or []}
    for frame in split.frames if split.pairs is not None else []:
        if frame not in labelled and frame.stem not in layout.unpaired:
            label = expected_label(layout, root, frame)
            yield Finding("frames without a label", f"{frame} has no {label}")


def check_orphans(splits: list[Split]) -> Iterable[Finding]:
    """Labels whose frame is not there, by the names in the folders of the labels."""
    pairs = [pair for split in splits for pair in split.pairs or []]
    known = {pair.label for pair in pairs}
    ends = {pair.label.parent: pair.rule.label_end for pair in pairs}
    for folder, end in ends.items():
        for path in sorted(folder.glob(f"*{end}")):
            # DAFormer's converters leave *_labelTrainIds.png beside labels that are named like their frames
            if path not in known and not (end == ".png" and path.stem.endswith("TrainIds")):
                yield Finding("labels without a frame", f"{path} belongs to no frame")


def check_end(path: Path) -> Iterable[Finding]:
    """A file that stops before its end, or is empty: what an interrupted extraction leaves."""
    if (error := cut_short(path)) is not None:
        yield _damaged(path, error)


def check_frame(layout: Layout, path: Path) -> Iterable[Finding]:
    """Decode one frame: is it whole, has it the official size?"""
    try:
        image = decode_rgb(path)
    except DECODING_ERRORS as error:
        yield _damaged(path, error)
        return
    if layout.size is not None and image.size != layout.size:
        yield Finding("sizes", f"{path} is {_by(ImageSize(*image.size))}, officially {_by(layout.size)}")


def check_label(layout: Layout, pair: Pair) -> Iterable[Finding]:
    """Read one label: is it of the right encoding, are its values defined, has it the size of its frame?"""
    try:
        raw = pair.format.read(pair.label)
    except UserError as error:
        cause = error.__cause__
        yield _damaged(pair.label, cause) if cause else Finding("labels of another encoding", str(error))
        return
    undefined = [value for value in np.unique(raw).tolist() if value not in pair.format.classes]
    if undefined:
        yield Finding("labels of another encoding", undefined_value(pair, undefined[0]))
    size = ImageSize(raw.shape[1], raw.shape[0])
    try:
        with open_image(pair.frame) as image:
            frame = ImageSize(*image.size)
    except DECODING_ERRORS:
        return  # check_frame says so
    if size != frame and pair.frame.stem not in layout.unusable:
        yield Finding("sizes", f"{pair.label} is {_by(size)}, its frame {_by(frame)}")


def _damaged(path: Path, error: BaseException) -> Finding:
    return Finding("damaged files", f"{path} cannot be decoded ({error}): extract it again")


def _by(size: ImageSize) -> str:
    return f"{size.width}x{size.height}"


def check(root: Path, layout: Layout, *, everything: bool = False) -> tuple[list[Split], list[Finding]]:
    """Look at a data set below `root`: its splits, and what is wrong with it."""
    splits = splits_on_disk(layout, root)
    findings = [finding for split in splits for finding in (*check_counts(split), *check_pairs(layout, root, split))]
    findings += check_orphans(splits)
    jobs: list[Callable[[], Iterable[Finding]]] = []
    for split in splits:
        pairs = split.pairs or []
        jobs += [partial(check_end, path) for path in (*split.frames, *(pair.label for pair in pairs))]
        jobs += [partial(check_frame, layout, path) for path in _sample(split.frames, everything)]
        jobs += [partial(check_label, layout, pair) for pair in _sample(pairs, everything)]
    console = Console(stderr=True)
    with ThreadPoolExecutor(max_workers=4) as pool:
        done = pool.map(lambda job: list(job()), jobs)
        for found in track(done, f"reading {layout.name}", len(jobs), console=console, disable=not console.is_terminal):
            findings += found
    if findings:
        findings += [Finding("archives", f"{path} lies there: was it extracted wholly?") for path in archives_in(root)]
    return splits, list(dict.fromkeys(findings))


def _sample(items: list, everything: bool) -> list:
    """All items, or SAMPLE of them spread evenly."""
    if everything or len(items) <= SAMPLE:
        return items
    return [items[i] for i in np.linspace(0, len(items) - 1, SAMPLE).round().astype(int)]


def print_report(layout: Layout, root: Path, splits: list[Split], findings: list[Finding], console: Console) -> None:
    """Counts by split, then what is wrong, the first few of each kind."""
    table = Table(title=f"{layout.name} in {root}")
    for title in ("split", "frames", "official", "with label"):
        table.add_column(title, justify="left" if title == "split" else "right")
    for split in splits:
        official = "varies" if split.official is None else str(split.official)
        table.add_row(
            split.name, str(len(split.frames)), official, "-" if split.pairs is None else str(len(split.pairs))
        )
    console.print(table)
    for kind, group in groupby(sorted(findings, key=lambda finding: finding.kind), lambda finding: finding.kind):
        texts = [finding.text for finding in group]
        console.print(f"{kind}: {len(texts)}", highlight=False)
        for text in texts[:SHOWN]:
            console.print(f"  {text}", highlight=False, markup=False, soft_wrap=True)
        if len(texts) > SHOWN:
            console.print(f"  and {len(texts) - SHOWN} more")
    if not findings:
        console.print("nothing is wrong", highlight=False)


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, check, print; 0 or 2."""
    parser = argparse.ArgumentParser(prog="sfda check-data", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the data set")
    parser.add_argument("--dataset", choices=LAYOUTS, help="which one; left out, it is told by its folders")
    parser.add_argument("--all", action="store_true", help=f"decode every file, not {SAMPLE} of each split")
    options = parser.parse_args(argv)
    root = options.root.expanduser()
    if not root.is_dir():
        raise UserError(f"data folder {root} does not exist")
    layout = LAYOUTS[options.dataset] if options.dataset else recognize(root)
    splits, findings = check(root, layout, everything=options.all)
    if not any(split.frames for split in splits):
        findings = [Finding("missing", f"expected {layout.expects}"), *findings]
    print_report(layout, root, splits, findings, Console())
    return 2 if findings else 0


if __name__ == "__main__":
    run_entry(main)
