"""A run is resumed with the configuration and the inputs that began it, but for what cannot change its weights.

The run folder holds both: `config.yaml`, and in `origin.json` what the configuration does not tell.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from sfda_engine.config.keys import KEYS
from sfda_engine.config.loader import load_config, save_config
from sfda_engine.config.schema import Config
from sfda_engine.data.readers import Images
from sfda_engine.distributed.collectives import wait_for_all
from sfda_engine.errors import UserError
from sfda_engine.files import remove_partials, write_json

log = logging.getLogger(__name__)

CONFIG, ORIGIN = "config.yaml", "origin.json"
# Keys that may differ. model.weights is a path: the hash of what lies there is compared. log_every and checkpoint_every
# are not among them: they decide the lines of metrics.jsonl, and whatever acts on those.
FREE = {
    *("run.output", "run.resume", "run.dry_run", "run.export", "run.log_with", "run.keep_last"),
    *("model.weights", "model.download", "model.check_input"),
    *("run.num_workers", "source.val_root", "source.val_split"),
}


def begin(
    config: Config, accelerator: Accelerator, run_folder: Path, sections: Iterable[str], origin: dict[str, Any]
) -> None:
    """Write what a later resume compares with; the resumed run is compared first.

    `sections` of the configuration decide the weights. Section `evaluate` never does: a wrong path of labels can be
    put right and the run finished. Raises UserError that names what differs; nothing is written then.
    """
    if config.run.resume:
        check_config(config, run_folder, sections)
        check_origin(origin, run_folder)
    wait_for_all()  # all have looked before one writes
    if accelerator.is_main_process:
        remove_partials(run_folder)
        write_json(run_folder / ORIGIN, origin)
        save_config(config, run_folder / CONFIG)


def origin_of(accelerator: Accelerator, frames: Images, weights_sha256: str | None) -> dict[str, Any]:
    """The inputs of a run as far as they decide its bits; precision as it came out, the launcher's word included."""
    names = "\n".join(frames.name(index) for index in range(len(frames)))
    return {
        "weights_sha256": weights_sha256,
        "frames": len(frames),
        "frame_names_sha256": hashlib.sha256(names.encode()).hexdigest(),
        "mixed_precision": accelerator.mixed_precision,
        "processes": accelerator.num_processes,
    }


def check_config(config: Config, run_folder: Path, sections: Iterable[str]) -> None:
    """UserError that names the keys of these sections in which `config` differs from the one that began the run."""
    path = run_folder / CONFIG
    if not path.exists():
        return  # killed before it began
    begun = load_config(path)
    changed = [
        f"{key} was {json.dumps(before)}, is {json.dumps(now)}"
        for key in KEYS
        if key.partition(".")[0] in sections and key not in FREE
        if (before := _value(begun, key)) != (now := _value(config, key))
    ]
    if changed:
        raise UserError(
            f"run.resume: {run_folder} began with another configuration ({'; '.join(changed)}); give it the values of "
            f"its {CONFIG}, or begin another run with --run.output"
        )


def check_origin(origin: dict[str, Any], run_folder: Path) -> None:
    """UserError that names the inputs that differ from those that began the run; a warning for `processes`."""
    path = run_folder / ORIGIN
    if not path.exists():
        return
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in origin if begun[name] != origin[name]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({repr(error)[:200]}); delete it to go on without comparing inputs"
        ) from error
    if "processes" in changed:
        changed.remove("processes")
        log.warning("begun with %s, going on with %s processes", begun["processes"], origin["processes"])
        log.warning("the weights will be equal to a whole run's up to rounding, not bit for bit")
    if changed:
        differences = "; ".join(f"{name} was {_short(begun[name])}, is {_short(origin[name])}" for name in changed)
        raise UserError(
            f"run.resume: {run_folder} began with other inputs ({differences}); give it the same again, or begin "
            "another run with --run.output"
        )


def _short(value: Any) -> str:
    """A value of origin.json in a message: a hash is shown whole, what a damaged file holds is not."""
    text = str(value)
    return text if len(text) <= 80 and text.isprintable() else f"{text[:80]!r}..."


def _value(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name, None)
    return config
