"""How many frames there are, also of a published data set that is not on this machine."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from sfda_engine.config.schema import SourceConfig, TargetConfig
from sfda_engine.data.datasets import LAYOUTS, SCENE_FRAMES, target_paths
from sfda_engine.data.published.layout import pairs_of
from sfda_engine.errors import UserError

NO_CAMVID = "domain camvid needs --camvid-root DIR, the folder that holds day_train/, day_val/ and dusk/"


@cache
def target_frames(target: TargetConfig) -> int:
    """Number of target frames; without a root that of the published data set."""
    if target.dataset == "scenes":
        return target.frames or SCENE_FRAMES["target"]
    if target.root is None:
        if target.dataset not in LAYOUTS:
            raise UserError(NO_CAMVID)
        return _published(LAYOUTS[target.dataset].splits, LAYOUTS[target.dataset].unions, target.split)
    return len(target_paths(target))


@cache
def source_frames(source: SourceConfig) -> int:
    """Number of labelled source frames; without a root that of the published data set."""
    if source.dataset == "scenes":
        return source.frames or SCENE_FRAMES["source"]
    if source.dataset == "folder":
        return target_frames(TargetConfig(root=source.root, split=source.split))
    layout = LAYOUTS[source.dataset]
    if source.root is None:
        return _published(layout.labelled, layout.unions, source.split)
    return len(pairs_of(layout, Path(source.root), source.split)[: source.frames])


def _published(splits: Any, unions: Any, split: str | None) -> int:
    split = split or "all"
    return sum(splits[part] or 0 for part in unions.get(split, (split,)))
