"""Is a run folder still what its manifest says, and was no label opened too early?"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sfda_engine.audit.firewall import LOG, statement
from sfda_engine.audit.manifest import FORMAT, codes, held_files, is_sealed
from sfda_engine.audit.provenance import FRAMES, engine_digest, hash_files, library_versions, module_digest
from sfda_engine.config.loader import load_config
from sfda_engine.errors import UserError
from sfda_engine.models.weights import read_weights, sha256_of
from sfda_engine.report.html import render
from sfda_engine.report.reading import read_run
from sfda_engine.run_folder.sealed import MANIFEST, damage

Status = Literal["ok", "changed", "missing", "other"]
STYLES = {"ok": "green", "changed": "bold red", "missing": "yellow", "other": "cyan"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `must`: the certificate fails where it is not ok; others fail if strict."""

    what: str
    status: Status
    detail: str = ""
    must: bool = True


def certify(run_folder: Path) -> list[Finding]:
    """Look at everything that the manifest of a run holds. Raises UserError where there is no finished run."""
    if not run_folder.is_dir():
        raise UserError(f"there is no run folder {run_folder}; name the folder that a run of adapt has left")
    path = run_folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{run_folder} holds no {MANIFEST}: the run has not ended, or is no run of adapt")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise UserError(f"{path} has format {manifest['format']!r}, this version reads {FORMAT}")
        return [finding for check in CHECKS for finding in check(run_folder, manifest)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [Finding(MANIFEST, "changed", f"it cannot be read ({type(error).__name__}: {error})")]


def check_outputs(folder: Path, manifest: dict[str, Any]) -> Iterator[Finding]:
    """Every file that the run wrote; a file of a sealed folder is held by that folder's own manifest."""
    for name, digest in manifest["outputs"].items():
        path = folder / name
        optional = is_sealed(path.parent)  # checkpoints may be deleted to make room
        if not path.is_file():
            yield Finding(name, "missing", "the run wrote it", must=not optional)
        elif sha256_of(path) != digest:
            yield Finding(name, "changed", "it is not the file that the run wrote")
        elif optional and (what := damage(path.parent)) is not None:
            yield Finding(path.parent.relative_to(folder).as_posix(), "changed", what)
        else:
            yield Finding(name, "ok")
    added = sorted(set(held_files(folder)) - set(manifest["outputs"]))
    for place, names in itertools.groupby(added, lambda name: Path(name).parts[0]):
        first, *others = names
        if others:
            yield Finding(place, "other", f"{1 + len(others)} files in it were added after the run", must=False)
        else:
            yield Finding(first, "other", "it was added after the run", must=False)


def check_inputs(folder: Path, manifest: dict[str, Any]) -> Iterator[Finding]:
    """The source weights and every target frame, where they still lie where they lay."""
    weights = manifest["inputs"]["weights"]
    yield _same_file("weights", Path(weights["path"]), weights["sha256"])
    frames: dict[str, str] = _json(folder / FRAMES).get("files", {})
    present = [path for path in map(Path, frames) if path.is_file()]
    now = hash_files(present)
    for name in frames:
        if name not in now:
            yield Finding(f"frame {name}", "missing", "not where it lay", must=False)
        elif now[name] != frames[name]:
            yield Finding(f"frame {name}", "changed", "it is not the frame that was adapted to")
        else:
            yield Finding(f"frame {name}", "ok")


def check_code(folder: Path, manifest: dict[str, Any]) -> Iterator[Finding]:
    """Whether the code that certifies is the code that ran, and ran all the way."""
    if len(manifest["code"]) != 1:
        yield Finding("code", "other", "it was changed between the sessions of this run", must=False)
    ran, result = manifest["code"][-1], _json(folder / "result.json")
    same = ran["engine_sha256"] == engine_digest()
    version = f"{ran['version']}, commit {ran['commit']}"
    yield Finding("code", "ok" if same else "other", "" if same else f"the run's was {version}", must=False)
    if ran["module_sha256"] is not None:
        arch = str(result.get("arch"))
        same = ran["module_sha256"] == module_digest(arch)
        yield Finding(f"code of {arch}", "ok" if same else "other", "" if same else "not the run's", must=False)
    here = library_versions()
    for name, version in manifest["libraries"].items():
        same = here.get(name) == version
        detail = "" if same else f"was {version}, is {here.get(name)}"
        yield Finding(f"library {name}", "ok" if same else "other", detail, must=False)


def check_firewall(folder: Path, manifest: dict[str, Any]) -> Iterator[Finding]:
    """The log of the firewall: as the manifest states it, nothing refused, no label before the last step."""
    if not (folder / LOG).is_file():
        yield Finding("firewall", "missing", f"{LOG} is gone")
        return
    stated, told = manifest["firewall"], statement(folder)
    if stated != told or codes(folder) != manifest["code"]:
        yield Finding("firewall", "changed", f"{LOG} says something else than the manifest")
        return
    faults = firewall_faults(told, steps=_json(folder / "result.json").get("steps"))
    yield Finding("firewall", "changed" if faults else "ok", "; ".join(faults))


def firewall_faults(told: dict[str, Any], *, steps: int | None) -> list[str]:
    """What in a firewall's statement contradicts "no label before the last step, source data never"."""
    faults = [f"{line['path']} was to be opened during adaptation" for line in told["refused"]]
    ended = told["ended"]
    if ended is None:
        return [*faults, "the run's last line is missing"]
    if told["sessions"] == 0:
        faults.append("no session is on record")
    faults += [f"labels were opened after step {line['step']}" for line in told["lifted"] if line["step"] != steps]
    first = ended["first_label"]
    lifts = [line["time"] for line in told["lifted"]]
    if first is not None and (not lifts or first["time"] < min(lifts)):
        faults.append(f"label {first['path']} was opened before labels were to be scored")
    return faults


def check_result(folder: Path, manifest: dict[str, Any]) -> Iterator[Finding]:
    """result.json, config.yaml, origin.json and the weights' own metadata tell of one run."""
    result, origin = _json(folder / "result.json"), _json(folder / "origin.json")
    source = manifest["inputs"]["weights"]["sha256"]
    yield _equal("result.json, source weights", result.get("source_sha256"), source)
    yield _equal("origin.json, source weights", origin.get("weights_sha256"), source)
    for key, value in manifest["decisions"].items():
        if key in result:
            yield _equal(f"result.json, {key}", result[key], value)
    yield _config(folder, manifest)
    for name in ("adapted", "last", "bn_warm_start"):
        try:
            info = read_weights(folder / f"{name}.safetensors")[1]
        except UserError as error:
            yield Finding(f"{name}.safetensors, metadata", "changed", str(error))
            continue
        yield _equal(f"{name}.safetensors, source weights", info and info.source_sha256, source)
        yield _equal(f"{name}.safetensors, classes", info and list(info.class_names), result.get("classes"))


def check_report(folder: Path, manifest: dict[str, Any]) -> Iterator[Finding]:
    """report.html states this manifest's sha256, and is what this folder renders to where the code is the run's."""
    path = folder / "report.html"
    if not path.is_file():
        yield Finding(path.name, "missing", "it can be made again from the folder", must=False)
        return
    page = path.read_text(encoding="utf-8", errors="replace")
    if sha256_of(folder / MANIFEST) not in page:
        yield Finding(path.name, "changed", f"it states another {MANIFEST} than the one in the folder")
    elif manifest["code"][-1]["engine_sha256"] == engine_digest() and page != _rendered(folder):
        yield Finding(path.name, "changed", "it does not show what is in the folder")
    else:
        yield Finding(path.name, "ok")


CHECKS = (check_outputs, check_inputs, check_code, check_firewall, check_result, check_report)


def _config(folder: Path, manifest: dict[str, Any]) -> Finding:
    try:
        config = json.loads(json.dumps(asdict(load_config(folder / "config.yaml"))))
    except UserError as error:
        return Finding("config.yaml", "changed", str(error))
    # the name is that of the file it was read from, and no key of it
    return _equal("config.yaml, values", config | {"name": None}, manifest["config"] | {"name": None}, told=False)


def _same_file(what: str, path: Path, digest: str) -> Finding:
    if not path.is_file():
        return Finding(f"{what} {path}", "missing", "not where it lay", must=False)
    same = sha256_of(path) == digest
    return Finding(f"{what} {path}", "ok" if same else "changed", "" if same else "it is not the file that was used")


def _equal(what: str, found: Any, stated: Any, *, told: bool = True) -> Finding:
    if found == stated:
        return Finding(what, "ok")
    return Finding(what, "changed", f"is {found}, the manifest says {stated}" if told else "differs from the manifest")


def _rendered(folder: Path) -> str | None:
    try:
        return render(read_run(folder))
    except (UserError, ValueError, KeyError, TypeError):
        return None


def _json(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty where there is none to be read, which other checks name."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def holds(findings: list[Finding], *, strict: bool) -> bool:
    """Whether the certificate stands."""
    return all(finding.status == "ok" for finding in findings if finding.must or strict)


def print_findings(findings: list[Finding], console: Console) -> None:
    """One row for everything that is not ok, one for all that is, by kind."""
    table = Table(title="certificate")
    for column in ("what", "status", "detail"):
        table.add_column(column, overflow="fold")
    groups: dict[str, int] = {}
    for finding in findings:
        if finding.status == "ok":
            kind = _kind(finding.what)
            groups[kind] = groups.get(kind, 0) + 1
    for kind, count in groups.items():
        table.add_row(kind, f"[{STYLES['ok']}]ok[/]", str(count) if count > 1 else "")
    for finding in findings:
        if finding.status != "ok":
            status = f"[{STYLES[finding.status]}]{finding.status}[/]"
            table.add_row(escape(finding.what), status, escape(finding.detail))
    console.print(table)


def _kind(what: str) -> str:
    first = what.split()[0].split("/")[0].rstrip(",")
    return {"frame": "target frames", "library": "libraries", "weights": "source weights"}.get(first, first)
