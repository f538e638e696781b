"""What the synthetic images of a run show: their sizes, and whole frames or windows at the target's own scale."""

from __future__ import annotations

import torch

from sfda_engine.config.schema import Config
from sfda_engine.models.generator import View
from sfda_engine.models.segmenter import ALIGNMENT


def synthetic_sizes(config: Config) -> list[tuple[int, int]]:
    """All sizes (width, height) that the synthetic images of a run may have, the first one the plain one."""
    width, height = config.target.seen
    return [config.method.synthetic_size or (width // 2, height // 2), *config.method.synthetic_sizes]


def generator_size(config: Config) -> tuple[int, int]:
    """(h, w) of the frame that the generator's weights hold: the target's own where it draws windows of it."""
    width, height = config.target.seen if config.method.synthetic_view == "window" else synthetic_sizes(config)[0]
    return height, width


def draw_view(config: Config, draws: torch.Generator) -> View:
    """Draw a size, and the place of the window where windows are asked for, each equally likely."""
    sizes = synthetic_sizes(config)
    width, height = sizes[_draw(len(sizes), draws)]
    if config.method.synthetic_view == "frame":
        return View((height, width))
    left, top = (
        ALIGNMENT * _draw((side - part) // ALIGNMENT + 1, draws)
        for side, part in zip(config.target.seen, (width, height), strict=True)
    )
    return View((height, width), (top, left))


def _draw(choices: int, draws: torch.Generator) -> int:
    return int(torch.randint(choices, (), generator=draws))
