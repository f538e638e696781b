"""What the user chose, and how it reaches the configuration of whatever runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.paper.domains import Domain


@dataclass(frozen=True, kw_only=True, eq=False)
class Options:
    """What the user chose; one object a command, so that configurations are read once for it."""

    domain: Domain
    output: Path
    roots: dict[str, Path] = field(default_factory=dict)
    """Data root by name."""
    sources: dict[str, Path] = field(default_factory=dict)
    """Source model by recipe, where it need not be trained."""
    backbones: dict[str, str] = field(default_factory=dict)
    """`model.backbone_weights` by network."""
    download: bool = False
    """Let ImageNet weights be downloaded."""
    steps: int | None = None
    epochs: int | None = None
    source_steps: int | None = None
    size: tuple[int, int] | None = None
    batch: int | None = None
    workers: int | None = None
    """Loader processes."""


def named(config: str, network: str) -> str:
    """The name of a configuration for one network: those of SegNet end in its name."""
    return f"{config}_segnet" if network == "segnet" else config


def model_words(network: str, options: Options) -> list[str]:
    """What the user chose for every model of a network, as the loader takes it."""
    words = ["--model.download", "true"] if options.download else []
    if network in options.backbones:
        words += ["--model.backbone_weights", options.backbones[network]]
    return words


def pair(size: tuple[int, int]) -> str:
    """A size as the loader takes it."""
    return f"[{size[0]}, {size[1]}]"
