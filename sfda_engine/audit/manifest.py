"""`manifest.json` in a run folder: what went in, by which code, what was decided, what came out; all by sha256.

Written when everything else of the run is, but the report, which states the manifest's own sha256, and the bundle,
which has a manifest of its own. Sealed folders (`start`, `checkpoints/*`) are held by the hash of theirs.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from sfda_engine.audit.firewall import now, read_log, statement
from sfda_engine.audit.provenance import FRAMES, library_versions
from sfda_engine.config.loader import load_config, resolve_weights
from sfda_engine.config.schema import Config
from sfda_engine.files import write_json
from sfda_engine.models.weights import sha256_of
from sfda_engine.run_folder import lock
from sfda_engine.run_folder.sealed import MANIFEST

FORMAT = 1
# not held: itself, what is made from it or after it, and what a tracker or the user may write later
LATER = ("manifest.json", "report.html", "evaluation.json", "bundle", "tensorboard", lock.NAME)


def write_manifest(folder: Path, config: Config, result: dict[str, Any]) -> str:
    """Write `manifest.json` of a run whose `result.json` holds `result`; returns the file's own sha256.

    It holds the configuration as the run was told it, from its folder; what was chosen is among the decisions.
    """
    weights = resolve_weights(config.model.weights)
    content = {
        "format": FORMAT,
        "created": now(),
        "code": codes(folder),
        "libraries": library_versions(),
        "config": json.loads(json.dumps(dataclasses.asdict(load_config(folder / "config.yaml")))),
        "inputs": {
            "weights": {"path": str(weights.absolute()), "sha256": result["source_sha256"]},
            "frames": {
                "dataset": config.target.dataset,
                "files": len(json.loads((folder / FRAMES).read_text(encoding="utf-8"))["files"]),
                "sha256": sha256_of(folder / FRAMES),
            },
        },
        "decisions": {
            key: result.get(key)
            for key in ("verdict", "verdict_basis", "steps", "exposure", "size", "bn_share", "preset", "seed")
        }
        | {"warmup_steps": config.method.warmup_steps},
        "firewall": statement(folder),
        "outputs": {name: sha256_of(folder / name) for name in held_files(folder)},
    }
    write_json(folder / "manifest.json", content)
    return sha256_of(folder / "manifest.json")


def codes(folder: Path) -> list[dict[str, Any]]:
    """The code of every session of a run (`code_identity`), each once: more than one, and it was changed between."""
    sessions = [line["code"] for line in read_log(folder)[0] if line["event"] == "began"]
    # by content: a commit of something else may have come in between
    return list({(code["engine_sha256"], code["module_sha256"]): code for code in sessions}.values())


def held_files(folder: Path) -> list[str]:
    """Files of a run folder that its manifest holds, relative and sorted; of a sealed folder, its own manifest."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    names = (path.relative_to(folder) for path in found if path.name == MANIFEST or not is_sealed(path.parent))
    return [name.as_posix() for name in names if name.parts[0] not in LATER]


def is_sealed(folder: Path) -> bool:
    """Whether a folder of a run holds itself (`sfda_engine.run_folder.sealed`)."""
    return folder.name == "start" or folder.parent.name == "checkpoints"
