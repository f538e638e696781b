"""The target domains by name: each a shipped configuration, so that size and batch are the engine's own.

Its section `source` names the labelled frames of the shipped source recipe, for the methods that need them.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from sfda_engine.config.loader import load_config, resolve_weights
from sfda_engine.config.schema import Config
from sfda_engine.errors import UserError
from sfda_engine.models.weights import sha256_of

SCENES = ("night", "fog", "rain", "city")
EXPOSURE = ("--model.exposure", "gamma")
"""For all methods, not chosen: the targets are dark or the same by day."""
DOMAINS = (*(f"scenes:{split}" for split in SCENES), "camvid:dusk")


def domain_config(domain: str, camvid_source: Path | None = None, camvid_root: Path | None = None) -> Config:
    """The configuration of scenes:SPLIT, or of camvid:FOLDER. Raises UserError where CamVid's files are not named."""
    kind, _, split = domain.partition(":")
    if kind == "scenes":
        config = load_config("demo", ["--target.split", split, "--evaluate.split", split, *EXPOSURE])
        return dataclasses.replace(config, source=load_config("demo_source").source)
    if camvid_source is None or camvid_root is None:
        raise UserError(
            f"{domain} needs --camvid-source FILE (a source model, see config camvid_source) and --camvid-root DIR "
            "(the folder that holds dusk/images and dusk/labels)"
        )
    root = camvid_root.expanduser() / split
    _require_folders(root, f"; --camvid-root is the folder that holds {split}/")
    overrides = {"model.weights": camvid_source, "target.root": root, "evaluate.root": root}
    config = load_config(
        "camvid_day_to_dusk",
        [*EXPOSURE, *(word for key, value in overrides.items() for word in (f"--{key}", str(value)))],
    )
    resolve_weights(config.model.weights)
    recipe = load_config("camvid_source", ["--source.root", str(root.with_name("day_train"))])
    return dataclasses.replace(config, source=recipe.source)


def require_source(config: Config) -> None:
    """Raise UserError where the folder of labelled source frames that a domain's configuration names is not there."""
    assert config.source is not None
    if config.source.root is None:
        return  # scenes are rendered
    hint = ", the labelled source frames that source-driven methods train on; put it there, or name methods that "
    _require_folders(Path(config.source.root), hint + "need none by --method")


def _require_folders(root: Path, hint: str) -> None:
    """Raise UserError, with `hint` at its end, where `root` has no images/ or no labels/."""
    for folder in (root / "images", root / "labels"):
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}{hint}")


def settings(config: Config, steps: int) -> str:
    """What a row was measured under, in words; rows are comparable where it is equal."""
    assert config.target.size is not None  # every domain states it
    width, height = config.target.size
    source = sha256_of(resolve_weights(config.model.weights))[:8]
    return (
        f"{steps} steps, {width}x{height}, batch {config.target.batch_size}, exposure {config.model.exposure}, "
        f"source {source}"
    )
