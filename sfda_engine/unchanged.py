"""A run is resumed with the configuration that began it, but for the keys that cannot change its weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sfda_engine.config import Config
from sfda_engine.config_loader import load_config
from sfda_engine.config_schema import KEYS
from sfda_engine.errors import UserError

CONFIG = "config.yaml"
# Keys that may differ. model.weights is a path: the hash of what lies there is compared (start.Origin). log_every and
# checkpoint_every are not among them: they decide the lines of metrics.jsonl, and what acts on those.
FREE = {
    *("run.output", "run.resume", "run.dry_run", "run.export", "run.log_with", "run.keep_last"),
    *("model.weights", "target.num_workers", "source.num_workers", "source.val_root", "source.val_split"),
}


def check_unchanged(config: Config, run_folder: Path, sections: Iterable[str]) -> None:
    """UserError that names the keys of these sections in which `config` differs from the one that began the run.

    A folder without a configuration is one where nothing began. Section `evaluate` is read after the last step, so a
    wrong path of labels can be put right and the run finished: it is nobody's business here.
    """
    path = run_folder / CONFIG
    if not path.exists():
        return
    begun = load_config(path)
    changed = [
        f"{key} was {_shown(before)}, is {_shown(now)}"
        for key in KEYS
        if key.partition(".")[0] in sections and key not in FREE
        if (before := _value(begun, key)) != (now := _value(config, key))
    ]
    if changed:
        raise UserError(
            f"run.resume: {run_folder} began with another configuration ({'; '.join(changed)}); give it the values of "
            f"its {CONFIG}, or begin a run of its own with --run.output"
        )


def _value(config: Any, key: str) -> Any:
    for name in key.split("."):
        config = getattr(config, name, None)
    return config


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
