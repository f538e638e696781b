"""Open the data set that a configuration names: frames alone for adaptation, frames with labels elsewhere."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from sfda_engine.config import EvaluateConfig, SourceConfig, TargetConfig
from sfda_engine.data.folder import FolderImages, FolderLabelled
from sfda_engine.data.readers import Images, LabelledImages
from sfda_engine.data.scenes import Scene, render_scene
from sfda_engine.errors import UserError

# Seeds of the scenes by purpose, far apart so that no frame serves two purposes.
SCENE_SEEDS = {"target": 0, "evaluate": 1_000_000, "source": 2_000_000, "validate": 3_000_000}
SCENE_FRAMES = {"target": 64, "evaluate": 64, "source": 1200, "validate": 64}


class SceneImages:
    """Procedural frames of one domain, rendered once and kept (uint8)."""

    def __init__(self, domain: str, *, purpose: str, size: tuple[int, int], frames: int | None) -> None:
        first = SCENE_SEEDS[purpose]
        self.domain = domain
        self.scenes = [
            self._keep(render_scene(domain, first + i, size)) for i in range(frames or SCENE_FRAMES[purpose])
        ]

    def _keep(self, scene: Scene) -> Scene:
        return scene._replace(label=scene.label[:0])

    def __len__(self) -> int:
        return len(self.scenes)

    def name(self, index: int) -> str:
        return f"{self.domain}_{index:04d}"

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.scenes[index].image)


class SceneLabelled(SceneImages):
    """Procedural frames that keep their labels."""

    def _keep(self, scene: Scene) -> Scene:
        return scene

    def label(self, index: int) -> Image.Image:
        return Image.fromarray(self.scenes[index].label)


def open_target(config: TargetConfig) -> Images:
    """The unlabelled target frames. Raises UserError for a missing root, an empty folder or corrupt images."""
    if config.dataset == "scenes":
        return SceneImages(_domain(config.split), purpose="target", size=config.size, frames=config.frames)
    return FolderImages(
        _folder(config.root, config.split, "target"), limit=config.frames, max_corrupt_share=config.max_corrupt_share
    )


def open_evaluate(config: EvaluateConfig, *, num_classes: int, size: tuple[int, int]) -> LabelledImages:
    """The labelled frames that `evaluate` scores; `size` (width, height) is what scenes are rendered at."""
    if config.dataset == "scenes":
        return SceneLabelled(_domain(config.split), purpose="evaluate", size=size, frames=config.frames)
    return FolderLabelled(_folder(config.root, config.split, "evaluate"), num_classes=num_classes, limit=config.frames)


def open_source(config: SourceConfig, *, num_classes: int, validate: bool = False) -> LabelledImages:
    """The labelled source frames of `train_source`, or its validation frames."""
    if config.dataset == "scenes":
        domain = _domain(config.val_split if validate else config.split)
        purpose = "validate" if validate else "source"
        return SceneLabelled(domain, purpose=purpose, size=config.size, frames=None if validate else config.frames)
    root, split = (config.val_root or config.root, config.val_split) if validate else (config.root, config.split)
    return FolderLabelled(_folder(root, split, "source"), num_classes=num_classes, limit=config.frames)


def check_label_folder(config: EvaluateConfig) -> None:
    """Fail before a long run where `evaluate` could not work; looks at folder names only, opens nothing."""
    if config.dataset == "scenes":
        _domain(config.split)
    elif not (labels := _folder(config.root, config.split, "evaluate") / "labels").is_dir():
        raise UserError(f"there is no label folder {labels}; leave section evaluate out to run without labels")


def _folder(root: str | None, split: str | None, section: str) -> Path:
    if root is None:
        raise UserError(f"{section}.root is not set; give the data folder with --{section}.root PATH")
    return Path(root).expanduser() / (split or "")


def _domain(split: str | None) -> str:
    if split is None:
        raise UserError("dataset scenes needs a split: day, fog, night, rain, city or camera")
    return split
