"""An examination as tables for people and as JSON for scripts."""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from sfda_engine.inspection.examination import Intake
from sfda_engine.inspection.findings import by
from sfda_engine.models.preprocess import Normalization
from sfda_engine.models.weights import WeightsInfo

STYLES = {"refuse": "bold red", "warn": "yellow", "note": "cyan"}
LISTED = 5


def print_intake(intake: Intake, info: WeightsInfo, console: Console, expected: dict[str, str] | None = None) -> None:
    """Facts, fits of the input convention, findings; `expected` adds rows on time and memory."""
    facts = Table(title="source model and frames", show_header=False)
    for name, value in (fact_rows(intake, info) | (expected or {})).items():
        facts.add_row(name, value)
    console.print(facts)
    if intake.conventions is not None:
        console.print(convention_table(intake, info.normalization))
    for finding in intake.findings:
        console.print(f"[{STYLES[finding.severity]}]{finding.severity}[/]", end=" ")
        console.print(str(finding), soft_wrap=True, markup=False, highlight=False)
    if not intake.refused:
        warnings = sum(finding.severity == "warn" for finding in intake.findings)
        counted = f"usable, with {warnings} warning{'s' if warnings > 1 else ''}"
        console.print(counted if warnings else "source model and frames fit")


def fact_rows(intake: Intake, info: WeightsInfo) -> dict[str, str]:
    """What was looked at and what is so, without judgement."""
    frames = intake.frames
    sizes = ", ".join(f"{by(size)} ({count})" for size, count in list(frames.sizes.items())[:LISTED])
    rows = {
        "model": f"{info.arch}, {intake.batch_norm_layers} BatchNorm layers",
        "classes": f"{info.num_classes}: {', '.join(info.class_names)}",
        "declared input": describe(info.normalization),
        "frames": f"{frames.read} of {frames.total} read, {len(frames.usable)} used; {sizes or 'none readable'}",
    }
    if intake.distance is not None:
        rows["distance from source"] = (
            f"{intake.distance['none']:.3f} as they are, {intake.distance['gamma']:.3f} with exposure correction; how "
            "much adapting gains cannot be told from it"
        )
    return rows


def describe(normalization: Normalization) -> str:
    """A convention on one line."""
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (normalization.mean, normalization.std))
    return f"{normalization.channel_order.upper()}, 0-{normalization.value_range:g}, mean {mean}, std {std}"


def convention_table(intake: Intake, stated: Normalization) -> Table:
    """Conventions in the declared channel order, nearest first, and the two orders."""
    fits = intake.conventions
    assert fits is not None
    order = stated.channel_order
    table = Table(title="input conventions by the first BatchNorm layer (exposure-corrected frames)")
    table.add_column("convention")
    table.add_column("distance", justify="right")
    for fit in sorted([fits.stated[order], *fits.others[order]], key=lambda fit: fit.distance):
        table.add_row(fit.name, f"{fit.distance:.3g}", style="bold" if fit.name == "as stated" else None)
    entropy = ", ".join(f"{name.upper()} {value:.3f}" for name, value in fits.entropy.items())
    table.caption = f"entropy after a BN warm start: {entropy} (the right order has the lower)"
    return table


def intake_json(intake: Intake) -> dict[str, Any]:
    """For result.json and `--json`: figures and findings, strict JSON."""
    frames, fits = intake.frames, intake.conventions
    content: dict[str, Any] = {
        "fits": not intake.refused,
        "findings": [vars(finding) for finding in intake.findings],
        "batch_norm_layers": intake.batch_norm_layers,
        "frames": {
            "total": frames.total,
            "read": frames.read,
            "used": len(frames.usable),
            "sizes": {by(size): count for size, count in frames.sizes.items()},
            "unreadable": list(frames.unreadable),
            "constant": list(frames.constant),
            "duplicates": [list(group) for group in frames.duplicates],
        },
        "exposure": intake.exposure,
        "distance": {name: rounded(value) for name, value in (intake.distance or {}).items()} or None,
        "conventions": None,
        "order_entropy": None,
    }
    if fits is not None:
        content["order_entropy"] = {name: rounded(value) for name, value in fits.entropy.items()}
        content["conventions"] = {
            order: {fit.name: rounded(fit.distance) for fit in (fits.stated[order], *fits.others[order])}
            for order in fits.stated
        }
    return content


def rounded(value: float) -> float | None:
    """Four decimals; None for what strict JSON cannot hold."""
    return round(value, 4) if math.isfinite(value) else None
