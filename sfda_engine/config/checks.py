"""Permitted ranges of the configuration's values; every message names the key, its value and the range."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any

from sfda_engine.config.schema import Config
from sfda_engine.errors import UserError

SCENE_DOMAINS = ("day", "fog", "night", "rain", "city", "camera")

AT_LEAST: dict[str, float] = {
    "run.seed": 0,
    "run.steps": 1,
    "run.epochs": 1,
    "run.checkpoint_every": 1,
    "run.keep_last": 1,
    "run.log_every": 1,
    "run.gradient_accumulation": 1,
    "model.num_classes": 2,
    "target.size": 32,
    "target.crop": 32,
    "target.batch_size": 2,
    "target.num_workers": 0,
    "target.frames": 1,
    "target.max_corrupt_share": 0,
    "evaluate.frames": 1,
    "evaluate.window": 32,
    "evaluate.expected_source_miou": 0,
    "method.alpha": 0,
    "method.beta": 0,
    "method.tau": 0,
    "method.gamma": 0,
    "method.bns_weight": 0,
    "method.max_square_weight": 0,
    "method.pseudo_label_weight": 0,
    "method.pseudo_label_scales": 1,
    "method.patch_grid": 1,
    "method.synthetic_size": 16,
    "method.synthetic_sizes": 16,
    "method.warmup_steps": 0,
    "method.generator_steps": 1,
    "method.generator_width": 8,
    "method.weight_decay": 0,
    "method.poly_power": 0,
    "method.bn_warm_start_passes": 0,
    "method.bn_source_share": 0,
    "method.bn_final_passes": 0,
    "source.frames": 1,
    "source.size": 32,
    "source.batch_size": 2,
    "source.num_workers": 0,
    "source.weight_decay": 0,
    "source.jitter": 0,
}
ABOVE_ZERO = (
    "model.normalization.std",
    "method.temperature",
    "method.max_square_scale",
    "method.lr",
    "method.generator_lr",
    "method.discriminator_lr",
    "method.clip_grad_norm",
    "method.student_clip_grad_norm",
    "method.bn_momentum",
    "source.lr",
    "source.scale",
)
AT_MOST: dict[str, float] = {
    "run.seed": 2**32 - 1,
    # what no machine has the memory for
    "target.size": 2**14,
    "target.batch_size": 2**16,
    "target.num_workers": 2**10,
    "source.size": 2**14,
    "source.batch_size": 2**16,
    "source.num_workers": 2**10,
    "method.synthetic_size": 2**14,
    "method.generator_width": 2**12,
    "method.pseudo_label_scales": 16,
    "target.max_corrupt_share": 1,
    "evaluate.expected_source_miou": 100,
    "method.bn_source_share": 1,
    "method.bn_momentum": 1,
}
BELOW_ONE = (
    "evaluate.window_overlap",
    "method.pseudo_label_drop",
    "method.momentum",
    "method.generator_betas",
    "method.discriminator_betas",
    "source.momentum",
    "source.jitter",
)


def validate(config: Config) -> None:
    """UserError at the first value that is not finite, out of range, or at odds with another one."""
    for key, value in _leaves(asdict(config)):
        for number in _numbers(value):
            _check_number(key, value, number)
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


def _leaves(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, tuple):
        for member in value:
            yield from _numbers(member)
    elif isinstance(value, (int, float)):
        yield value


def _check_sizes(config: Config) -> None:
    """Crops, windows and synthetic windows lie within their frames."""
    target, method = config.target, config.method
    if target.crop is not None:
        _demand_within("target.crop", target.crop, "target.size", target.size)
    if config.evaluate is not None and (window := config.evaluate.window) is not None:
        _demand_within("evaluate.window", window, "target.size", target.size)
        aligned = not any(side % 32 for side in window)
        _demand(aligned, "evaluate.window", window, "of multiples of 32, the stride of the coarsest network")
    if method.synthetic_view == "window":
        frame = "target.crop" if target.crop else "target.size"
        for size in [method.synthetic_size] if method.synthetic_size else []:
            _demand_within("method.synthetic_size", size, frame, target.seen)
        for size in method.synthetic_sizes:
            _demand_within("method.synthetic_sizes", size, frame, target.seen)


def _demand_within(key: str, part: tuple[int, int], whole_key: str, whole: tuple[int, int]) -> None:
    fits = part[0] <= whole[0] and part[1] <= whole[1]
    _demand(fits, key, part, f"within {whole_key} {list(whole)}, no side longer ([width, height])")


def _check_number(key: str, value: Any, number: float) -> None:
    finite = abs(number) < 2**63 if isinstance(number, int) else math.isfinite(number)
    _demand(finite, key, value, "a finite number")
    if key in AT_LEAST:
        _demand(number >= AT_LEAST[key], key, value, f"at least {AT_LEAST[key]}")
    if key in ABOVE_ZERO:
        _demand(number > 0, key, value, "above 0")
    if key in AT_MOST:
        _demand(number <= AT_MOST[key], key, value, f"at most {AT_MOST[key]}")
    if key in BELOW_ONE:
        _demand(0 <= number < 1, key, value, "at least 0 and below 1")


def _check_run(config: Config) -> None:
    run, method, target = config.run, config.method, config.target
    if run.steps is None and run.epochs is None:
        raise UserError("run.steps and run.epochs are both null: give one of them, at least 1")
    side = min(target.seen)
    _demand(method.patch_grid <= side, "method.patch_grid", method.patch_grid, f"at most {side}, a target side")
    weights = (method.alpha, method.beta, method.max_square_weight, method.pseudo_label_weight)
    if not any(weights) and (method.gamma == 0 or method.patch_grid == 1):
        raise UserError(
            "method.alpha, beta, max_square_weight, pseudo_label_weight and gamma leave the student without any loss: "
            "make one of them positive (gamma needs method.patch_grid above 1)"
        )
    if not method.pseudo_label_scales:
        raise UserError("method.pseudo_label_scales is empty: give at least one, as [1.0]")
    if method.student_init == "fresh" and method.target_bn == "running":
        raise UserError(
            "method.target_bn running needs method.student_init source: a fresh student's running statistics change "
            "within a step, on synthetic images; set method.target_bn to batch"
        )
    if method.student_init == "fresh" and method.bn_final_passes:
        raise UserError(
            f"method.bn_final_passes is {method.bn_final_passes}, but a fresh student shares no statistics with the "
            "source: set it to 0, or method.student_init to source"
        )
    normalization = config.model.normalization
    if normalization is not None:
        white = normalization.value_range
        _demand(white in (1.0, 255.0), "model.normalization.value_range", white, "1.0 or 255.0")
    if config.source is not None:
        low, high = config.source.scale
        _demand(low <= high, "source.scale", config.source.scale, "[smallest, largest]")


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
