"""One run of the engine by its defaults, and what labels say of it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.arena.ceilings import ceilings
from benchmarks.arena.degrade import Kind, degrade

TOLERANCE, WORTH = 0.3, 1.0
"""Points of mIoU: what a shipped model may lie below the untouched source, and what keeping that may give away."""


@dataclass(frozen=True)
class Entry:
    """A network and a target. `size` None = chosen by the run."""

    arch: str
    weights: Path
    frames: Path
    labelled: Path
    size: tuple[int, int] | None
    seed: int = 0
    kind: Kind | None = None
    """How frames and labelled frames are made worse first; None leaves them as they are."""
    with_ceilings: bool = False
    overrides: tuple[str, ...] = ()
    """Further options of `sfda adapt`: settings that spoil a run, so that the verdict is judged on losing ones too."""

    @property
    def target(self) -> str:
        """The name that the table has."""
        return " ".join(filter(None, (self.labelled.name, self.kind)))


@dataclass(frozen=True)
class Row:
    """Scores in percent mIoU at the labels' own size, all at the size of the run."""

    network: str
    target: str
    size: str
    chosen: str
    """Exposure and share of the start."""
    seed: int
    settings: str
    source: float
    bn_warm_start: float
    start: float
    adapted: float
    """As shipped."""
    last: float
    verdict: str
    right: bool
    """Whether the verdict neither shipped what is worse than the source nor kept the source where much was to gain."""
    cpu_seconds: float
    """Of the whole command, imports and scoring included."""
    best_view: float | None
    """Ceiling of the choice and of the training (`Ceilings`); None where not asked for."""
    oracle: float | None

    @property
    def gain(self) -> float:
        """Of the shipped model over the untouched source."""
        return self.adapted - self.source


def is_right(miou: dict[str, float], verdict: str) -> bool:
    """Whether what was shipped is no worse than the source, and the source was not kept where the last weights or the
    start are clearly better."""
    if miou["adapted"] < miou["source"] - TOLERANCE:
        return False
    return verdict != "keep_source" or max(miou["last"], miou["start"]) <= miou["source"] + WORTH


def places(entry: Entry, folder: Path) -> tuple[Path, Path]:
    """Frames and labelled frames of an entry, degraded into `folder` where it says so."""
    if entry.kind is None:
        return entry.frames, entry.labelled
    labelled = degrade(entry.labelled, entry.kind, folder / "labelled")
    same = entry.frames == entry.labelled
    return labelled if same else degrade(entry.frames, entry.kind, folder / "frames"), labelled


def run(entry: Entry) -> Row:
    """Run the command and read its result. Raises CalledProcessError with what it said where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        frames, labelled = places(entry, Path(folder))
        options = {
            "model.weights": entry.weights,
            "model.arch": entry.arch,
            "target.root": frames,
            "evaluate.root": labelled,
            "run.output": output,
            "run.seed": entry.seed,
        }
        if entry.size is not None:
            options["target.size"] = list(entry.size)
        command = [sys.executable, "-m", "sfda_engine.adapt", *entry.overrides]
        command += [word for key, value in options.items() for word in (f"--{key}", str(value))]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = json.loads((output / "result.json").read_text())
        found = ceilings(output) if entry.with_ceilings else None
    miou = result["miou"]
    return Row(
        network=entry.weights.stem,
        target=entry.target,
        size="x".join(map(str, result["size"])),
        chosen=f"{result['exposure']}, {result['bn_share']:.0%}",
        seed=entry.seed,
        settings=" ".join(entry.overrides),
        source=miou["source"],
        bn_warm_start=miou["bn_warm_start"],
        start=miou["start"],
        adapted=miou["adapted"],
        last=miou["last"],
        verdict=result["verdict"],
        right=is_right(miou, result["verdict"]),
        best_view=found.best_view if found else None,
        oracle=found.oracle if found else None,
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )
