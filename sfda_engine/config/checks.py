"""The configuration's values within their ranges, and not at odds with each other; every message names the key, its
value and what is permitted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from sfda_engine.config.schema import Config, Range
from sfda_engine.errors import UserError

SCENE_DOMAINS = ("day", "fog", "night", "rain", "city", "camera")
WINDOW_STRIDE = 32


def validate(config: Config) -> None:
    """UserError at the first value that is not finite, out of range, or at odds with another one."""
    for key, value, bounds in _leaves(config):
        for number in _numbers(value):
            _check_number(key, value, number, bounds)
    _check_run(config)
    _check_sizes(config)
    _check_data(config)


def check_same_world(config: Config) -> None:
    """UserError where `adapt` would score procedural scenes after adapting to frames on disk."""
    target, evaluate = config.target.dataset, config.evaluate
    if evaluate is not None and evaluate.dataset == "scenes" and target != "scenes":
        split = " --evaluate.split null" if target == "folder" else ""
        raise UserError(
            f"evaluate is of procedural scenes (evaluate.dataset scenes) while target.dataset is {target}: name "
            f"labelled frames of the target by --evaluate.dataset {target} --evaluate.root FOLDER{split}, or do "
            "without labels by --evaluate null"
        )


def _leaves(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Range]]:
    for field in fields(section):
        value = getattr(section, field.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value, field.metadata.get("range", Range())


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, tuple):
        for member in value:
            yield from _numbers(member)
    elif isinstance(value, (int, float)):
        yield value


def _check_number(key: str, value: Any, number: float, bounds: Range) -> None:
    finite = abs(number) < 2**63 if isinstance(number, int) else math.isfinite(number)
    _demand(finite, key, value, "a finite number")
    if bounds.at_least is not None:
        _demand(number >= bounds.at_least, key, value, f"at least {bounds.at_least:g}")
    if bounds.above is not None:
        _demand(number > bounds.above, key, value, f"above {bounds.above:g}")
    if bounds.at_most is not None:
        _demand(number <= bounds.at_most, key, value, f"at most {bounds.at_most:.10g}")
    if bounds.below is not None:
        _demand(number < bounds.below, key, value, f"below {bounds.below:g}")


def _check_sizes(config: Config) -> None:
    """Crops and windows lie within their frames."""
    target = config.target
    if target.crop is not None:
        _demand_within("target.crop", target.crop, target.size)
    if config.evaluate is not None and (window := config.evaluate.window) is not None:
        _demand_within("evaluate.window", window, target.size)
        aligned = not any(side % WINDOW_STRIDE for side in window)
        _demand(aligned, "evaluate.window", window, f"of multiples of {WINDOW_STRIDE}, as of the coarsest network")


def _demand_within(key: str, part: tuple[int, int], whole: tuple[int, int] | None) -> None:
    if whole is None:
        raise UserError(f"{key} is {list(part)}, but target.size is null: state the size with --target.size [W, H]")
    fits = part[0] <= whole[0] and part[1] <= whole[1]
    _demand(fits, key, part, f"within target.size {list(whole)}, no side longer ([width, height])")


def _check_run(config: Config) -> None:
    method, seen = config.method, config.target.seen
    if seen is not None:
        side = min(seen)
        _demand(method.patch_grid <= side, "method.patch_grid", method.patch_grid, f"at most {side}, a target side")
    weights = (method.alpha, method.beta, method.max_square_weight, method.pseudo_label_weight)
    if not any(weights) and (method.gamma == 0 or method.patch_grid == 1):
        raise UserError(
            "method.alpha, beta, max_square_weight, pseudo_label_weight and gamma leave the student without any loss: "
            "make one of them positive (gamma needs method.patch_grid above 1)"
        )
    if method.student_init == "fresh" and method.target_bn == "running":
        raise UserError(
            "method.target_bn running needs method.student_init source: a fresh student's running statistics change "
            "within a step, on synthetic images; set method.target_bn to batch (as method.preset paper does)"
        )
    normalization = config.model.normalization
    if normalization is not None:
        white = normalization.value_range
        _demand(white in (1.0, 255.0), "model.normalization.value_range", white, "1.0 or 255.0")


def _check_data(config: Config) -> None:
    for name in ("target", "evaluate", "source"):
        section = getattr(config, name)
        if section is None or section.dataset != "scenes":
            continue
        if section.root is not None:
            raise UserError(
                f"{name}.root is {section.root!r}, but {name}.dataset is scenes, which takes no folder: "
                f"add --{name}.dataset folder, or remove {name}.root"
            )
        splits = [f"{name}.split"]
        if name == "source" and section.val_split is not None:
            splits.append("source.val_split")
        for key in splits:
            _check_domain(key, getattr(section, key.rpartition(".")[2]))


def _check_domain(key: str, domain: str | None) -> None:
    if domain not in SCENE_DOMAINS:
        close = get_close_matches(str(domain), SCENE_DOMAINS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UserError(f"{key} is {domain and domain[:100]!r}: scenes come as {', '.join(SCENE_DOMAINS)}{hint}")


def _demand(condition: bool, key: str, value: Any, permitted: str) -> None:
    if not condition:
        shown = str(list(value) if isinstance(value, tuple) else value)
        shown = shown if len(shown) <= 120 else f"{shown[:120]}..."
        raise UserError(f"{key} is {shown}: it must be {permitted}")
