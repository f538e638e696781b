"""What an examination finds: each finding says what, why, and what to do, and whether a run is refused for it.

The limits were measured on eleven pairs of source and target (procedural scenes, CamVid).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from sfda_engine.data.classes import generic_classes
from sfda_engine.data.frame_sample import FrameSample
from sfda_engine.data.images import ImageSize
from sfda_engine.inspection.convention import ConventionFits, Fit, Order
from sfda_engine.models.norms import batch_norm_layers
from sfda_engine.models.preprocess import Normalization
from sfda_engine.models.weights import WeightsInfo

Severity = Literal["refuse", "warn", "note"]

# Entropy of the stated channel order over that of the other one. Right orders had at most 0.97, swapped ones on
# frames of a known source at least 1.2 but for heavily degraded frames.
ORDER_REFUSED, ORDER_DOUBTED = 1.2, 1.1
# Distance of the stated convention over that of the nearest other one, and the distance itself. Right conventions had
# a ratio of at most 1.2, wrong ones at least 2.6 but for mean and std 0.5 against ImageNet's, which are neighbors.
SCALE_REFUSED, SCALE_DOUBTED, SCALE_FAR = 2.5, 1.5, 0.5
ASPECT_TOLERANCE = 0.1
ZOOM_TOLERANCE = 1.5


@dataclass(frozen=True)
class Finding:
    """Something that the user should know."""

    severity: Severity
    what: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; {self.remedy}"


def frame_findings(sample: FrameSample) -> Iterator[Finding]:
    """Frames that cannot be decoded, show nothing, or are there twice."""
    if sample.unreadable:
        yield Finding(
            "warn" if sample.usable else "refuse",
            f"{len(sample.unreadable)} of {sample.read} frames cannot be decoded",
            f"first: {sample.unreadable[0]}",
            "repair or remove them (adapt skips up to 5 % of all)",
        )
    if sample.constant:
        yield Finding(
            "warn" if sample.usable else "refuse",
            f"{len(sample.constant)} of {sample.read} frames have one color",
            f"first: {sample.constant[0]}; such a frame (covered lens, lost signal) teaches nothing and bends the "
            "BN statistics",
            "remove them",
        )
    if sample.duplicates:
        extra = sum(len(group) - 1 for group in sample.duplicates)
        yield Finding(
            "warn",
            f"{extra} frames are copies of others",
            f"first: {' = '.join(sample.duplicates[0][:3])}; adaptation would see them more often",
            "remove the copies",
        )
    if 0 < len(sample.usable) < 4:
        yield Finding(
            "warn",
            f"only {len(sample.usable)} usable frames",
            "so few tell little, and one alone nothing of the input",
            "give more frames",
        )


def size_findings(sample: FrameSample, size: ImageSize, info: WeightsInfo) -> Iterator[Finding]:
    """What resizing to target.size does to the frames, and what the network was trained at."""
    width, height = size
    stretch = {own: width * own.height / (height * own.width) for own in sample.sizes}
    bent = [own for own, factor in stretch.items() if abs(factor - 1) > ASPECT_TOLERANCE]
    if bent:
        factor = stretch[bent[0]]
        yield Finding(
            "warn",
            f"target.size {by(size)} distorts frames of {by(bent[0])}",
            f"they become {abs(factor - 1):.0%} {'wider' if factor > 1 else 'narrower'} than they are",
            "take a size of their shape, such as target.size "
            f"[{width}, {round(width * bent[0].height / bent[0].width)}], unless the source was trained on frames "
            "distorted alike",
        )
    small = [own for own in sample.sizes if own.width < width or own.height < height]
    if small:
        yield Finding(
            "warn",
            f"target.size {by(size)} enlarges frames of {by(small[0])}",
            "that adds pixels but no detail, at full cost",
            "take a smaller target.size, unless the source was trained on frames enlarged alike",
        )
    if len(sample.sizes) > 1:
        found = ", ".join(f"{by(own)} ({count})" for own, count in sample.sizes.items())
        yield Finding("note", f"{len(sample.sizes)} sizes of frames", found, f"all are resized to {by(size)}")
    if info.size is not None:
        zoom = (width * height / (info.size.width * info.size.height)) ** 0.5
        if not 1 / ZOOM_TOLERANCE < zoom < ZOOM_TOLERANCE:
            yield Finding(
                "warn",
                f"target.size {by(size)} is {zoom:.2g} times the {by(info.size)} that the source was trained at",
                "things appear in sizes that it has not seen, which it may know less well",
                f"take a target.size near {by(info.size)} if the cameras' views are alike",
            )


def model_findings(model: nn.Module, info: WeightsInfo) -> Iterator[Finding]:
    """Weights that are no numbers, BN statistics that were never written, classes without names."""
    broken = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        yield Finding(
            "refuse",
            f"{len(broken)} tensors of the source model hold NaN or infinity",
            f"first: {broken[0]}",
            "take a checkpoint from before its training diverged",
        )
    layers = batch_norm_layers(model)
    untrained = [name for name, layer in layers.items() if never_written(layer)]
    if untrained:
        everywhere = len(untrained) == len(layers)
        yield Finding(
            "refuse" if everywhere else "warn",
            f"{'all' if everywhere else len(untrained)} of {len(layers)} BatchNorm layers hold mean 0 and variance 1",
            "their statistics were never written, so they know nothing of the source domain: "
            + ("the model was never trained" if everywhere else f"first: {untrained[0]}"),
            "give the weights of a trained model, saved with its buffers (running_mean, running_var)",
        )
    if info.class_names == generic_classes(info.num_classes).names:
        yield Finding(
            "note",
            f"the {info.num_classes} classes have no names",
            "the weights say none, and no model.classes is given",
            "say --model.classes NAME to have them named and their number checked",
        )


def never_written(layer: nn.Module) -> bool:
    """Whether a BatchNorm layer's running statistics are those it was built with."""
    assert isinstance(layer.running_mean, torch.Tensor)
    assert isinstance(layer.running_var, torch.Tensor)
    return bool((layer.running_mean == 0).all() and (layer.running_var == 1).all())


def convention_findings(fits: ConventionFits, stated: Normalization) -> Iterator[Finding]:
    """Channel order first; range, mean and std then in the order that fits."""
    order: Order = stated.channel_order
    other: Order = "bgr" if order == "rgb" else "rgb"
    ratio = fits.entropy[order] / max(fits.entropy[other], 1e-9)
    if ratio >= ORDER_DOUBTED:
        refused = ratio >= ORDER_REFUSED
        # mean and std may have been stated for either order: beside a swap only another scale is a fault of its own
        nearest = min(fits.stated[other], fits.others[other][0], key=lambda fit: fit.distance)
        yield Finding(
            "refuse" if refused else "warn",
            f"red and blue {'are' if refused else 'may be'} swapped: the input is declared {order.upper()}, but the "
            f"source fits {other.upper()}",
            f"after a BN warm start its predictions are {ratio:.2f} times as uncertain (mean entropy "
            f"{fits.entropy[order]:.3f} against {fits.entropy[other]:.3f}) as with the channels exchanged",
            f"{remedy(nearest.normalization)}; or if the declaration is what the source was trained with, the frames "
            "were written with red and blue exchanged: write them again",
        )
        if refused and 0.5 < times_as_large(fits.stated[other].normalization, nearest.normalization) < 2:
            return
        order = other if refused else order
    elif ratio > 1 / ORDER_DOUBTED:
        yield Finding(
            "note",
            "RGB and BGR cannot be told apart on these frames",
            f"the source is as sure of one as of the other (mean entropy {fits.entropy[order]:.3f} and "
            f"{fits.entropy[other]:.3f})",
            f"make sure that it was trained on {order.upper()}",
        )
    yield from scale_findings(fits.stated[order], fits.others[order][0])


def scale_findings(stated: Fit, best: Fit) -> Iterator[Finding]:
    """Range, mean and std: the stated ones against those that fit best."""
    ratio = stated.distance / max(best.distance, 1e-9)
    if ratio < SCALE_DOUBTED or stated.distance < SCALE_FAR:
        return
    yield Finding(
        "refuse" if ratio >= SCALE_REFUSED else "warn",
        scale_fault(stated.normalization, best.normalization),
        f"the source's first BatchNorm layer fits other inputs better: {best.name} (distance {best.distance:.3g} "
        f"against {stated.distance:.3g} as stated)",
        remedy(best.normalization),
    )


def scale_fault(stated: Normalization, best: Normalization) -> str:
    """What the difference between two conventions is called."""
    times = times_as_large(stated, best)
    if times > 50:
        return f"a division by 255 is missing: inputs are about {times:.0f} times as large as those of the source"
    if times < 1 / 50:
        return f"one division by 255 too many: inputs are about {1 / times:.0f} times as small as those of the source"
    if set(stated.mean) == {0.0} and set(stated.std) == {1.0}:
        return "the normalization is missing: none is declared, but the source was trained with mean and std"
    if set(best.mean) == {0.0} and set(best.std) == {1.0}:
        return "a normalization is declared, but the source was trained without mean and std"
    return "the declared mean and std are not those of the source"


def times_as_large(one: Normalization, other: Normalization) -> float:
    """The ratio of the ranges of two conventions' inputs."""
    return one.value_range / other.value_range * sum(other.std) / sum(one.std)


def remedy(normalization: Normalization) -> str:
    """The setting that says so."""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (normalization.mean, normalization.std))
    return (
        f"set model.normalization to {{mean: [{mean}], std: [{std}], channel_order: {normalization.channel_order}, "
        f"value_range: {normalization.value_range:g}}} (where the weights file itself says otherwise, write it again)"
    )


def by(size: ImageSize) -> str:
    return f"{size.width}x{size.height}"
