"""Where a published data set keeps its frames and labels: what its reader file declares, and how frames are listed.

Listing frames never lists or opens a label; only `pairs_of` looks for labels.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from sfda_engine.data.images import ImageSize
from sfda_engine.data.published.label_formats import LabelFormat, read_map
from sfda_engine.errors import UserError

log = logging.getLogger(__name__)
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".part")


@dataclass(frozen=True)
class LabelRule:
    """A label lies where its frame does, with a folder and the end of the name exchanged.

    `frames/x/<stem><one of frame_ends>` -> `labels/x/<stem><label_end>`, folders relative to the root.
    """

    frames: str
    labels: str
    frame_ends: tuple[str, ...]
    label_end: str
    format: LabelFormat

    def label_of(self, root: Path, frame: Path) -> Path | None:
        """The label of a frame by this rule, whether it exists or not; None where the rule is not about the frame."""
        folder = root / self.frames
        for end in self.frame_ends:
            if frame.name.endswith(end) and folder in frame.parents:
                name = frame.name.removesuffix(end) + self.label_end
                return root / self.labels / frame.parent.relative_to(folder) / name
        return None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A data set on disk: official splits with their number of frames, where its files are, what its labels say."""

    name: str
    classes: str
    """Named class set that its labels fill."""
    expects: str
    """The folders, for messages."""
    marks: tuple[str, ...]
    """Glob patterns below the root; a match tells this data set from the others."""
    splits: Mapping[str, int | None]
    """Official number of frames by split (what `target` opens); None where releases differ."""
    labelled: Mapping[str, int | None]
    """The same for splits that have labels (what `evaluate` and `source` open)."""
    find: Callable[[Path, str], list[Path]]
    """(root, split) -> frames in order; touches folders of frames alone."""
    find_labelled: Callable[[Path, str], list[Path]] | None = None
    """The same for labelled splits, where these are other frames. None = `find`."""
    rules: tuple[LabelRule, ...]
    """Where the label of a frame may lie, best first."""
    unions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names for several splits together."""
    unusable: frozenset[str] = frozenset()
    """Stems of frames whose label does not fit them: left out wherever labels are needed."""
    unpaired: frozenset[str] = frozenset()
    """Stems of frames whose label some downloads lack: left out where it is missing."""
    size: ImageSize | None = None
    """(width, height) of every frame and label; None where they vary."""


@dataclass(frozen=True)
class Pair:
    """A frame, its label and the rule that found it."""

    frame: Path
    label: Path
    rule: LabelRule

    @property
    def format(self) -> LabelFormat:
        return self.rule.format


def frames_of(layout: Layout, root: Path, split: str | None, *, labelled: bool = False) -> list[Path]:
    """Frames of a split (or of a union), sorted. Raises UserError for a wrong root or split, or where there is none."""
    if not root.is_dir():
        raise UserError(f"data folder {root} does not exist; give the root of {layout.name}: {layout.expects}")
    found = {part: _find(layout, root, part, labelled) for part in _parts(layout, split, labelled)}
    if not any(found.values()):
        raise UserError(_nothing_there(layout, root, split))
    for part, frames in found.items():
        official = (layout.labelled if labelled else layout.splits)[part]
        if official is not None and len(frames) < official:
            _warn_of_fewer(layout.name, part, root, len(frames), official)
    return sorted(path for frames in found.values() for path in frames)


@cache
def _warn_of_fewer(name: str, split: str, root: Path, found: int, official: int) -> None:
    """Once a process: a subset may be meant, a half-extracted archive is not."""
    log.warning(
        "%s %s: %d of the official %d frames are in %s; if an archive was extracted in part, extract it again "
        "(python -m sfda_engine.data.check %s tells what is missing)",
        *(name, split, found, official, root, root),
    )


def pairs_of(layout: Layout, root: Path, split: str | None) -> list[Pair]:
    """Frames of a labelled split with their labels; known misfits are left out, with a line in the log.

    Raises UserError as `frames_of` does, and where any other frame has no label.
    """
    frames = frames_of(layout, root, split, labelled=True)
    usable = [frame for frame in frames if frame.stem not in layout.unusable]
    pairs = {frame: pair_of(layout, root, frame) for frame in usable}
    missing = [frame for frame, pair in pairs.items() if pair is None and frame.stem not in layout.unpaired]
    if missing:
        wanted = expected_label(layout, root, missing[0])
        raise UserError(
            f"{len(missing)} of {len(frames)} frames of {layout.name} {split or ''} have no label, as {missing[0]}: "
            f"there is no {wanted} ({layout.rules[0].format.what}){_archives(root)}; "
            f"python -m sfda_engine.data.check {root} lists what is wrong"
        )
    found = [pair for pair in pairs.values() if pair is not None]
    if len(found) < len(frames):
        log.warning("%s: %d frames are left out, their labels misfit", layout.name, len(frames) - len(found))
    return found


def pair_of(layout: Layout, root: Path, frame: Path) -> Pair | None:
    """A frame with the first of its possible labels that exists; None where none does."""
    for rule in layout.rules:
        label = rule.label_of(root, frame)
        if label is not None and label.is_file():
            return Pair(frame, label, rule)
    return None


def expected_label(layout: Layout, root: Path, frame: Path) -> Path:
    """Where the label of a frame lies officially; looks at nothing on disk."""
    return next(label for rule in layout.rules if (label := rule.label_of(root, frame)) is not None)


def split_of(runs: str, stem: str) -> str:
    """Official split of a frame by `maps/<runs>.csv`: sorted stems, each the first of a run of one split."""
    firsts, splits = _runs(runs)
    return splits[max(0, bisect_right(firsts, stem) - 1)]


@cache
def _runs(name: str) -> tuple[list[str], list[str]]:
    rows = read_map(name)
    return [row["first"] for row in rows], [row["split"] for row in rows]


def _find(layout: Layout, root: Path, split: str, labelled: bool) -> list[Path]:
    return (layout.find_labelled or layout.find if labelled else layout.find)(root, split)


def _parts(layout: Layout, split: str | None, labelled: bool) -> tuple[str, ...]:
    known = layout.labelled if labelled else layout.splits
    names = [*layout.unions, *known]
    split = "all" if split is None and "all" in layout.unions else split
    if split not in names:
        close = get_close_matches(str(split), names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        kind = "labelled split" if labelled else "split"
        raise UserError(f"{layout.name} has no {kind} {split!r}: choose one of {', '.join(names)}{hint}")
    return layout.unions.get(split, (split,))


def _nothing_there(layout: Layout, root: Path, split: str | None) -> str:
    message = f"no frame of {layout.name} {split or ''} in {root}: expected {layout.expects}{_archives(root)}"
    inner = [path for path in root.iterdir() if path.is_dir() and recognizes(layout, path)]
    outer = [root.parent] if recognizes(layout, root.parent) else []
    if (inner or outer) and not recognizes(layout, root):
        message += f"; {(inner + outer)[0]} looks like its root"
    return message


def _archives(root: Path) -> str:
    found = [path.name for path in archives_in(root)]
    return f"; {', '.join(found[:3])} there is not extracted, or not wholly" if found else ""


def archives_in(root: Path) -> list[Path]:
    """Archives and half-finished downloads that lie in a data folder."""
    return sorted(path for path in root.iterdir() if path.suffix.lower() in ARCHIVES and path.is_file())


def recognizes(layout: Layout, root: Path) -> bool:
    """Whether a folder has the marks of a data set."""
    return any(next(root.glob(mark), None) is not None for mark in layout.marks)
