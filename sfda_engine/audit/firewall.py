"""The label firewall: while a run adapts, no file under a label folder can be opened, and source data never.

`adapt` works inside `firewall(config)`. An audit hook of Python's (PEP 578) is told of every file that this process or
a forked loader worker is about to open or list; what lies behind the wall raises FirewallError, at once and again
at `lift`, should a caller have swallowed it. What the wall saw goes to `audit.jsonl` in the run folder, line by line,
so that a kill loses nothing. What a hook cannot see is in docs/label_firewall.md.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from sfda_engine.audit.label_places import label_folders, scored_files, scored_frames, source_folders
from sfda_engine.config.schema import Config
from sfda_engine.data.datasets import target_paths
from sfda_engine.distributed.collectives import any_process, process_index
from sfda_engine.errors import FirewallError
from sfda_engine.files import append_line

LOG = "audit.jsonl"
# every way of Python's to a file's content or name; the first argument of each event is a path or a descriptor
EVENTS = {"open", "os.listdir", "os.scandir", "os.link", "os.rename"}

LINES = ("began", "refused", "lifted", "ended")


@dataclass(frozen=True)
class Closed:
    """A folder behind the wall: `what` is "labels" or "source data", `folder` its resolved path."""

    what: str
    folder: str

    def holds(self, path: str) -> bool:
        return path == self.folder or path.startswith(self.folder + os.sep)


class Firewall:
    """One run's wall. `exempt`: files behind it that are the target's own frames or, once lifted, those to score."""

    def __init__(self, config: Config) -> None:
        self.evaluate = config.evaluate
        self.closed = closed_folders(config)
        self.exempt = _own_frames(config, self.closed)
        self.folder: Path | None = None
        self.seen = 0
        self.refused: list[dict[str, Any]] = []
        self.scored: set[str] = set()
        self.first_scored: dict[str, Any] | None = None

    def see(self, event: str, path: Any) -> None:
        """Raise FirewallError where `path` lies behind the wall; count it otherwise."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # a descriptor: the file it stands for was seen when it was opened
        self.seen += 1
        if not self.closed:
            return
        real = os.path.realpath(os.fsdecode(path))
        behind = next((closed for closed in self.closed if closed.holds(real)), None)
        if behind is None:
            return
        if real in self.exempt:
            if behind.what == "labels" and event == "open":
                self.first_scored = self.first_scored or {"path": real, "time": now()}
                self.scored.add(real)
            return
        entry = {"event": "refused", "time": now(), "what": behind.what, "path": real, "by": event}
        self.refused.append(entry)
        self._log(entry)
        raise FirewallError(_refusal(self.refused))

    def begin(self, folder: Path, **facts: Any) -> None:
        """Write to the log of `folder` from here on: that a session began and `facts` of it, and earlier refusals."""
        self.folder = folder
        if process_index() == 0:
            if (folder / LOG).exists():
                append_line(folder / LOG, "")  # a kill may have torn the last line
            shared = [any(map(closed.holds, self.exempt)) for closed in self.closed]
            closed = [vars(closed) | {"shared": own} for closed, own in zip(self.closed, shared, strict=True)]
            self._log({"event": "began", "time": now(), "closed": closed, **facts})
        for entry in self.refused:
            self._log(entry)

    def lift(self, step: int) -> None:
        """Open the labels to score, and nothing else, after the last step; every process comes by here.

        Raises FirewallError where anything was refused before, on any process; UserError as `scored_files` does.
        """
        refused = self._refused()
        if any_process(bool(refused)):
            raise FirewallError(_refusal(refused) if refused else "another process was refused a file")
        if self.evaluate is None:
            return
        with _aside():
            files = scored_files(self.evaluate)
        self.exempt |= _with_folders(files)
        if process_index() == 0:
            self._log({"event": "lifted", "time": now(), "step": step, "seen": self.seen})

    def end(self, step: int) -> None:
        """Write the last line of the log: what was opened behind the wall for the scores, by the main process.

        Raises FirewallError where this process or a loader worker was refused anything.
        """
        if refused := self._refused():
            raise FirewallError(_refusal(refused))
        if process_index() == 0:
            self._log(
                {
                    "event": "ended",
                    "time": now(),
                    "step": step,
                    "seen": self.seen,
                    "labels_scored": len(self.scored),
                    "first_label": self.first_scored,
                }
            )

    def _refused(self) -> list[dict[str, Any]]:
        """What was refused in this session, to loader workers too, whose own list dies with them."""
        if self.refused or self.folder is None:
            return self.refused
        lines = read_log(self.folder)[0]
        begun = max(index for index, line in enumerate(lines) if line["event"] == "began")
        return [line for line in lines[begun:] if line["event"] == "refused"]

    def _log(self, entry: dict[str, Any]) -> None:
        if self.folder is not None:
            append_line(self.folder / LOG, json.dumps(entry | {"process": process_index()}))


def closed_folders(config: Config) -> tuple[Closed, ...]:
    """The label folders of `target` and `evaluate`, whatever their layout, and all data of `source`."""
    labels = {os.path.realpath(path) for path in label_folders(config.target)}
    if config.evaluate is not None:
        labels |= {os.path.realpath(path) for path in label_folders(config.evaluate)}
    source = {os.path.realpath(path) for path in source_folders(config.source)} - labels
    return (
        *(Closed("labels", folder) for folder in sorted(labels)),
        *(Closed("source data", folder) for folder in sorted(source)),
    )


def statement(run_folder: Path) -> dict[str, Any]:
    """What `audit.jsonl` says of all sessions of a run, killed ones included.

    closed: folders behind the wall, `shared` where frames of the target or frames to score lie there too; sessions;
    refused: what was tried; lifted: when, after which step; ended: what was opened for the scores, None while the run
    has not ended; unread: lines that a kill has torn.
    """
    lines, unread = read_log(run_folder)
    by_event = {name: [line for line in lines if line["event"] == name] for name in LINES}
    closed = {(one["what"], one["folder"]): one for line in by_event["began"] for one in line["closed"]}
    return {
        "closed": [closed[key] for key in sorted(closed)],
        "sessions": len(by_event["began"]),
        "refused": by_event["refused"],
        "lifted": by_event["lifted"],
        "ended": by_event["ended"][-1] if by_event["ended"] else None,
        "unread": unread,
    }


def read_log(run_folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of `audit.jsonl` and the number of those that cannot be read. Raises FileNotFoundError."""
    lines, unread = [], 0
    for text in (run_folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text) if text.strip() else None
        except ValueError:
            line, unread = None, unread + 1
        if isinstance(line, dict) and line.get("event") in LINES:
            lines.append(line)
    return lines, unread


def now() -> str:
    """The time in UTC, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


_active: Firewall | None = None


@contextmanager
def firewall(config: Config) -> Iterator[Firewall]:
    """A wall around everything that is done inside, in this process and the loader workers that it forks."""
    global _active
    _install()
    before, wall = _active, Firewall(config)
    _active = wall
    try:
        yield wall
    finally:
        _active = before


@cache
def _install() -> None:
    """Add the hook, once a process: Python has no way to take one away, for good reasons."""
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _active is not None and event in EVENTS and arguments:
        _active.see(event, arguments[0])


@contextmanager
def _aside() -> Iterator[None]:
    """No wall while its own keeper lists what may be opened."""
    global _active
    before, _active = _active, None
    try:
        yield
    finally:
        _active = before


def _own_frames(config: Config, closed: Iterable[Closed]) -> set[str]:
    """Target frames that lie behind the wall, as where source and target are splits of one data set, and the folders
    of the frames to score, which may be listed."""
    source = [one for one in closed if one.what == "source data"]

    def within(root: str | None) -> bool:
        real = os.path.realpath(os.path.expanduser(root or ""))
        return root is not None and any(one.holds(real) or Closed("", real).holds(one.folder) for one in source)

    found = _with_folders(target_paths(config.target)) if within(config.target.root) else set()
    if config.evaluate is not None and within(config.evaluate.root):
        found |= _folders(scored_frames(config.evaluate))
    return found


def _with_folders(paths: Iterable[Path]) -> set[str]:
    """Resolved paths and those of the folders that they lie in, which may then be listed."""
    paths = list(paths)
    return {os.path.realpath(path) for path in paths} | _folders(paths)


def _folders(paths: Iterable[Path]) -> set[str]:
    homes = {Path(os.path.realpath(path)).parent for path in paths}
    return {str(folder) for home in homes for folder in (home, *home.parents)}


def _refusal(refused: list[dict[str, Any]]) -> str:
    first = refused[0]
    whose = (
        "labels are closed until the last step is done"
        if first["what"] == "labels"
        else "adaptation is source-free: the source data are closed to it"
    )
    return (
        f"{first['path']} was to be opened ({first['by']}) although {whose}. Find the code that does so, in a module "
        "of your own (model.arch) or in a change of the engine; what this run has adapted is not to be trusted"
    )
