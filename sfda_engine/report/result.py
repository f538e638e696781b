"""The content of result.json: one strict-JSON summary of a run that scripts and the report read."""

from __future__ import annotations

import dataclasses
import math
import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from sfda_engine.evaluation.expectation import expectation
from sfda_engine.evaluation.scores import Evaluation
from sfda_engine.judge.choice import Choice
from sfda_engine.judge.verdict import Verdict
from sfda_engine.models.weights import WeightsInfo


@dataclass(frozen=True, kw_only=True)
class Result:
    """Everything that result.json is made of; seconds and images/s are those of warm-up and adaptation alone."""

    name: str
    """Of the configuration."""
    preset: str
    seed: int
    expected_source_miou: float | None
    info: WeightsInfo
    verdict: Verdict | None
    choice: Choice
    scores: dict[str, Evaluation]
    steps: int
    seconds: float
    images_per_second: float
    peak_memory_mb: float
    device: str
    warnings: list[str]
    intake: dict[str, Any]
    guard: dict[str, Any] | None


def as_json(result: Result) -> dict[str, Any]:
    """The dictionary that result.json holds; scores only where labels were given."""
    info = result.info
    content: dict[str, Any] = {
        **verdict(result.verdict),
        "steps": result.steps,
        "seconds": round(result.seconds, 3),
        "images_per_second": round(result.images_per_second, 3),
        "peak_memory_mb": round(result.peak_memory_mb, 1),
        "device": result.device,
        "config": result.name,
        "preset": result.preset,
        "seed": result.seed,
        "arch": info.arch,
        "exposure": info.exposure,
        "size": list(info.size or ()),
        "bn_share": result.choice.view.share,
        "views": views(result.choice),
        "classes": list(info.class_names),
        "palette": [list(color) for color in info.palette],
        "source_sha256": info.source_sha256,
        "versions": versions(),
        "warnings": result.warnings,
        "intake": result.intake,
        "guard": result.guard,
    }
    if result.scores:
        content |= score_tables(result.scores)
        content |= expectation(result.expected_source_miou, content["miou"]["source"])
    return content


def verdict(judged: Verdict | None) -> dict[str, Any]:
    """verdict, verdict_basis and, where the run was judged, `selection`: what ships and label-free scores by model."""
    if judged is None:
        return {"verdict": "adapted", "verdict_basis": "not judged"}
    scores = {name: {key: finite(value) for key, value in vars(own).items()} for name, own in judged.scores.items()}
    step = int(judged.model) if judged.verdict == "adapted" else None
    return {
        "verdict": judged.verdict,
        "verdict_basis": judged.basis,
        "selection": {"model": judged.model, "step": step, "scores": scores},
    }


def views(choice: Choice) -> list[dict[str, Any]]:
    """Every view that was looked at, best first, with what the opinions say of it; the chosen one is marked."""
    return [
        vars(row.view)
        | {"size": list(row.view.size)}
        | {name: finite(value) for name, value in vars(row).items() if name != "view"}
        | {"chosen": row.view == choice.view}
        for row in choice.scores
    ]


def finite(value: float) -> float | None:
    """Strict JSON has no NaN."""
    return round(value, 6) if math.isfinite(value) else None


def score_tables(scores: dict[str, Evaluation]) -> dict[str, Any]:
    """miou, miou_training_size, pixel_accuracy, mean_pixel_accuracy and iou by model, in percent.

    miou_as_deployed too, where `evaluate.as_deployed` asked for it.
    """
    own = {name: score.own_size for name, score in scores.items()}
    deployed = {name: score.as_deployed.miou for name, score in scores.items() if score.as_deployed is not None}
    tables = {
        "miou": {name: score.miou for name, score in own.items()},
        "miou_training_size": {name: score.training_size.miou for name, score in scores.items()},
        "pixel_accuracy": {name: score.pixel_accuracy for name, score in own.items()},
        "mean_pixel_accuracy": {name: score.mean_pixel_accuracy for name, score in own.items()},
        "iou": {name: dataclasses.asdict(score)["iou"] for name, score in own.items()},
        "evaluated_frames": scores["source"].frames,
    }
    return tables | ({"miou_as_deployed": deployed} if deployed else {})


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    packages = ("sfda-engine", "torch", "torchvision", "accelerate")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}
