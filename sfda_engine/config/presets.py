"""The two presets of the `method` section, and what is known to break in the paper as printed."""

from __future__ import annotations

from typing import Any

from sfda_engine.config.schema import MethodConfig

# "stable" is the dataclasses' own defaults, so that a default is written in one place.
PRESETS: dict[str, dict[str, Any]] = {
    "stable": {},
    "literal": {
        "max_square_weight": 1.0,
        "max_square_scale": 1.0,
        "attention": "dot",
        "discrepancy": "linear",
        "bns_norm": "sum_squares",
        "warmup_steps": 0,
        "generator_lr": 0.1,
        "generator_betas": (0.9, 0.999),
        "discriminator_lr": 0.1,
        "discriminator_betas": (0.9, 0.999),
        "clip_grad_norm": None,
        "bn_warm_start_passes": 0,
        "bn_momentum": 0.1,
        "synthetic_bn": "running",
        "discriminator_input": "logits",
    },
}

TROUBLE: dict[str, str] = {
    "generator_lr": "Adam with learning rate 0.1 diverges (stable: 1e-3)",
    "discriminator_lr": "Adam with learning rate 0.1 diverges (stable: 1e-4)",
    "max_square_weight": "about 380 times the strength of MaxSquare's own code, collapses (stable: 0.1)",
    "attention": "softmax of raw dot products saturates, its KL can be inf or NaN (stable: cosine)",
    "discrepancy": "-alpha MAE - beta DAD is unbounded, the generator can win by exploding (stable: log)",
    "bns_norm": "deep wide layers dominate the sum of squares (stable: mean_l2)",
    "synthetic_bn": "the student unlearns its adaptation on synthetic images (stable: batch)",
}


def literal_warnings(method: MethodConfig) -> list[str]:
    """One line for each setting of the paper as printed that is known to break and is in force here."""
    literal = PRESETS["literal"]
    return [f"method.{key}: {why}" for key, why in TROUBLE.items() if getattr(method, key) == literal[key]]
