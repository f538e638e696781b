"""The presets of the `method` section, and what is known to break in the paper as printed."""

from __future__ import annotations

from typing import Any

from sfda_engine.config.schema import MethodConfig

PAPER: dict[str, Any] = {
    "alpha": 1.0,
    "beta": 0.5,
    "gamma": 0.01,
    "max_square_weight": 0.1,
    "pseudo_label_weight": 0.0,
    "lr": 2.5e-4,
    "clip_grad_norm": 1.0,
    "bn_share": 0.0,
    "target_bn": "batch",
}
# "recommended" is the dataclasses' own defaults, so that a default is written in one place.
PRESETS: dict[str, dict[str, Any]] = {
    "recommended": {},
    "paper": PAPER,
    "literal": PAPER
    | {
        "max_square_weight": 1.0,
        "temperature": None,
        "terms": "printed",
        "warmup_steps": 0,
        "generator_lr": 0.1,
        "discriminator_lr": 0.1,
        "clip_grad_norm": None,
        "bn_share": 1.0,
        "synthetic_bn": "running",
    },
}
ALIASES = {"stable": "paper"}
"""Old names of presets."""

TROUBLE: dict[str, str] = {
    "generator_lr": "Adam with learning rate 0.1 diverges (paper: 1e-3)",
    "discriminator_lr": "Adam with learning rate 0.1 diverges (paper: 1e-4)",
    "max_square_weight": "about 380 times the strength of MaxSquare's own code, collapses (paper: 0.1)",
    "temperature": "softmax of raw dot products saturates, its KL can be inf or NaN (paper: cosine / 0.1)",
    "terms": "-alpha MAE - beta DAD is unbounded, the generator can win by exploding; deep wide layers dominate the "
    "sum of squared norms (paper: stable)",
    "synthetic_bn": "the student unlearns its adaptation on synthetic images (paper: source)",
}


def literal_warnings(method: MethodConfig) -> list[str]:
    """One line for each setting of the paper as printed that is known to break and is in force here."""
    literal = PRESETS["literal"]
    return [f"method.{key}: {why}" for key, why in TROUBLE.items() if getattr(method, key) == literal[key]]
