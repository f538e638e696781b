"""manifest.json -> what the page says of the label firewall and of the run's provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfda_engine.report.summary import section


def firewall_sentence(manifest: Mapping[str, Any]) -> str:
    """What the firewall of the run has seen, in plain words; empty where there is no manifest."""
    told = section(manifest, "firewall")
    if not told:
        return ""
    closed, refused, ended = told.get("closed") or [], told.get("refused") or [], section(told, "ended")
    if refused:
        paths = len({line["path"] for line in refused})
        return f"{paths} files behind the label firewall were to be opened during adaptation and refused."
    if not closed:
        return "This run knew of no label folder and of no source data on disk: there was nothing to close."
    labels, source = ([one["folder"] for one in closed if one["what"] == what] for what in ("labels", "source data"))
    told_of = f"While the model was adapted, no file was opened in {_listed(labels)}." if labels else ""
    if ended.get("labels_scored"):
        count, step = ended["labels_scored"], ended["step"]
        told_of += f" {count} label files were opened by the main process for the scores, after step {step}."
    if source:
        shared = any(one.get("shared") for one in closed if one["what"] == "source data")
        own = ", but for frames of the target and frames to score, which lie there too" if shared else ""
        told_of += f" No file of the source data ({_listed(source)}) was opened at any time{own}."
    return told_of.strip()


def trust_rows(manifest: Mapping[str, Any], digest: str) -> list[tuple[str, str]]:
    """Names and values for the table beside the sentence."""
    if not manifest:
        return []
    told, frames = section(manifest, "firewall"), section(section(manifest, "inputs"), "frames")
    code = (manifest.get("code") or [{}])[-1]
    first = section(section(told, "ended"), "first_label")
    return [
        ("sessions", str(told.get("sessions"))),
        *([("first label opened", f"{first['time']}, {first['path']}")] if first else []),
        *[("labels released", f"{line['time']}, after step {line['step']}") for line in told.get("lifted") or []],
        ("target frames", f"{frames.get('files')} files, sha256 of their list {frames.get('sha256')}"),
        ("code", f"{code.get('version')}, commit {code.get('commit')}, sha256 {code.get('engine_sha256')}"),
        ("files held", str(len(section(manifest, "outputs")))),
        ("manifest.json sha256", digest),
    ]


def _listed(folders: list[str]) -> str:
    return ", ".join(folders)
