"""Readers of listed files: frames alone for adaptation, frames with labels for `evaluate` and `train_source`."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from sfda_engine.data.classes import class_set, generic_classes
from sfda_engine.data.images import DECODING_ERRORS, decode_rgb
from sfda_engine.data.published.label_formats import UNDEFINED
from sfda_engine.data.published.layout import Layout, Pair
from sfda_engine.errors import UserError


class FrameFiles:
    """Unlabelled frames by their paths."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index].stem

    def image(self, index: int) -> Image.Image:
        return decode_rgb(self.paths[index])


class PairedFiles(FrameFiles):
    """Frames with labels, translated to the train ids of `names`; classes that the model lacks become 255.

    `image` and `label` raise UserError for a file that is damaged or holds values its format does not define.
    """

    def __init__(self, pairs: list[Pair], names: tuple[str, ...]) -> None:
        super().__init__([pair.frame for pair in pairs])
        self.pairs = pairs
        self.tables = {pair.format: pair.format.train_ids(names) for pair in pairs}

    def image(self, index: int) -> Image.Image:
        try:
            return super().image(index)
        except DECODING_ERRORS as error:
            raise UserError(f"frame {self.paths[index]} cannot be decoded ({error}); extract it again") from error

    def label(self, index: int) -> Image.Image:
        pair = self.pairs[index]
        raw = pair.format.read(pair.label)
        ids = self.tables[pair.format][raw]
        if (ids == UNDEFINED).any():
            raise UserError(undefined_value(pair, int(raw[ids == UNDEFINED][0])))
        return Image.fromarray(ids)


def undefined_value(pair: Pair, value: int) -> str:
    """What to say of a label that holds a value which its format does not define."""
    return (
        f"label {pair.label} holds the value {value}, but its values are {pair.format.what}: the file has another "
        "encoding; take the data set's own file"
    )


def label_classes(layout: Layout, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names under which a data set's labels are to be read for a model with classes `names`.

    These are the model's own; a model whose classes have no names (class_0, ...) takes the data set's in their order.
    Raises UserError where the numbers differ, or where a class is none of the data set's family.
    """
    own = class_set(layout.classes)
    family = class_set("camvid" if layout.classes == "camvid" else "cityscapes")
    if names == generic_classes(len(names)).names:
        for known in (own, family):
            if len(names) == len(known.names):
                return known.names
        raise UserError(
            f"the model has {len(names)} classes, data set {layout.name} has {len(own.names)} ({own.name}): take "
            "weights for it, or say which they are with --model.classes"
        )
    foreign = [name for name in names if name not in family.names]
    if foreign:
        raise UserError(
            f"the model's class {foreign[0]!r} is no class of data set {layout.name} ({', '.join(family.names)}): its "
            f"labels cannot score this model; take a model with --model.classes {own.name}"
        )
    return names
