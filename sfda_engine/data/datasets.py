"""Open the data set that a configuration names: frames alone for adaptation, frames with labels elsewhere."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from sfda_engine.config.schema import EvaluateConfig, SourceConfig, TargetConfig
from sfda_engine.data.folder import FolderLabelled, check_labels_there, drop_corrupt, list_images
from sfda_engine.data.frame_files import FrameFiles, PairedFiles, label_classes
from sfda_engine.data.images import ImageSize
from sfda_engine.data.published import acdc, bdd100k, camvid, cityscapes, crosscity, dark_zurich, gta5, idd, synthia
from sfda_engine.data.published.layout import Layout, expected_label, frames_of, pairs_of
from sfda_engine.data.readers import Images, LabelledImages
from sfda_engine.data.scenes.render import Scene, render_scene
from sfda_engine.errors import UserError

# Seeds of the scenes by purpose, far apart so that no frame serves two purposes.
SCENE_SEEDS = {"target": 0, "evaluate": 1_000_000, "source": 2_000_000, "validate": 3_000_000}
SCENE_SIZE = (128, 96)
"""(width, height) that scenes are drawn at where none is stated."""
SCENE_FRAMES = {"target": 64, "evaluate": 64, "source": 1200, "validate": 64}

# Published data sets, by the name that the key `dataset` takes.
LAYOUTS: dict[str, Layout] = {
    module.LAYOUT.name: module.LAYOUT
    for module in (cityscapes, gta5, synthia, crosscity, camvid, bdd100k, acdc, dark_zurich, idd)
}


class SceneImages:
    """Procedural frames of one domain, rendered once and kept (uint8)."""

    def __init__(self, domain: str, *, purpose: str, size: ImageSize, frames: int | None) -> None:
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
        return SceneImages(
            _domain(config.split), purpose="target", size=ImageSize(*config.size or SCENE_SIZE), frames=config.frames
        )
    return FrameFiles(drop_corrupt(target_paths(config)))


def target_paths(config: TargetConfig) -> list[Path]:
    """The files of a target on disk, sorted, none of them opened. Raises UserError for a missing root or none there."""
    if config.dataset in LAYOUTS:
        return frames_of(LAYOUTS[config.dataset], _root(config.root, "target"), config.split)[: config.frames]
    return list_images(frames_folder(config.root, config.split, "target"), limit=config.frames)


def open_evaluate(config: EvaluateConfig, *, class_names: tuple[str, ...], size: ImageSize) -> LabelledImages:
    """The labelled frames that `evaluate` scores; `size` (width, height) is what scenes are rendered at."""
    if config.dataset == "scenes":
        return SceneLabelled(_domain(config.split), purpose="evaluate", size=size, frames=config.frames)
    if config.dataset in LAYOUTS:
        return _open_pairs(config.dataset, config.root, config.split, "evaluate", class_names, config.frames)
    folder = frames_folder(config.root, config.split, "evaluate")
    return FolderLabelled(folder, num_classes=len(class_names), limit=config.frames)


def open_source(config: SourceConfig, *, class_names: tuple[str, ...], validate: bool = False) -> LabelledImages:
    """The labelled source frames of `train_source`, or its validation frames."""
    if config.dataset == "scenes":
        domain = _domain(config.val_split if validate else config.split)
        purpose = "validate" if validate else "source"
        return SceneLabelled(
            domain, purpose=purpose, size=ImageSize(*config.size), frames=None if validate else config.frames
        )
    root, split = (config.val_root or config.root, config.val_split) if validate else (config.root, config.split)
    if config.dataset in LAYOUTS:
        return _open_pairs(config.dataset, root, split, "source", class_names, config.frames)
    return FolderLabelled(frames_folder(root, split, "source"), num_classes=len(class_names), limit=config.frames)


def default_classes(dataset: str) -> str | None:
    """The class set that a data set's labels fill; None for folders, which do not say."""
    return LAYOUTS[dataset].classes if dataset in LAYOUTS else "scenes" if dataset == "scenes" else None


def check_label_folder(config: EvaluateConfig, class_names: tuple[str, ...]) -> None:
    """Fail before a long run where `evaluate` could not work; looks at names of files and folders, opens none."""
    if config.dataset == "scenes":
        _domain(config.split)
    elif config.dataset in LAYOUTS:
        layout, root = LAYOUTS[config.dataset], _root(config.root, "evaluate")
        label_classes(layout, class_names)
        labels = expected_label(layout, root, frames_of(layout, root, config.split, labelled=True)[0]).parent
        if not labels.is_dir():
            raise UserError(
                f"there is no label folder {labels}; extract the labels of {layout.name} ({layout.expects})"
            )
        pairs_of(layout, root, config.split)
    else:
        folder = frames_folder(config.root, config.split, "evaluate")
        if not (labels := folder / "labels").is_dir():
            raise UserError(f"there is no label folder {labels}; leave section evaluate out to run without labels")
        check_labels_there(folder, limit=config.frames)


def _open_pairs(
    dataset: str, root: str | None, split: str | None, section: str, class_names: tuple[str, ...], frames: int | None
) -> PairedFiles:
    layout = LAYOUTS[dataset]
    names = label_classes(layout, class_names)
    return PairedFiles(pairs_of(layout, _root(root, section), split)[:frames], names)


def frames_folder(root: str | None, split: str | None, section: str) -> Path:
    """The folder of a section of dataset `folder`. UserError where root is none, or the split is no folder in it."""
    home = _root(root, section)
    folder = home / (split or "")
    if split and home.is_dir() and not folder.is_dir():
        raise UserError(
            f"image folder {folder} does not exist ({section}.split is {split!r}: --{section}.split null takes the "
            "folder itself)"
        )
    return folder


def _root(root: str | None, section: str) -> Path:
    if root is None:
        raise UserError(f"{section}.root is not set; give the data folder with --{section}.root PATH")
    path = Path(root).expanduser()
    if path.is_file():
        raise UserError(f"{section}.root {path} is a file; name its folder")
    return path


def _domain(split: str | None) -> str:
    if split is None:
        raise UserError("dataset scenes needs a split: day, fog, night, rain, city or camera")
    return split
