"""The published score of the source model beside the measured one: the source checkpoint decides every later figure."""

from __future__ import annotations

TOLERANCE = 3.0
"""Points of mIoU. Seeds differ by about one; what the paper gains over its source is 2 to 10."""


def expectation(expected: float | None, miou: float) -> dict[str, float]:
    """What evaluation.json and result.json say of a source model with `miou` (percent); nothing without expectation."""
    return {} if expected is None else {"expected_source_miou": expected, "source_miou_deviation": miou - expected}


def deviation_warnings(expected: float | None, miou: float, where: str) -> list[str]:
    """One line where `miou` (percent) of the source model is further than TOLERANCE from the expected one, or none;
    `where` names the frames."""
    if expected is None or abs(miou - expected) <= TOLERANCE:
        return []
    remedy = (
        "look at its recipe (ImageNet weights, epochs, size, class set) before adapting it"
        if miou < expected
        else "gains over it cannot be compared with the published ones"
    )
    return [
        f"the source model has {miou:.2f} mIoU on {where}, expected {expected:.2f} "
        f"(evaluate.expected_source_miou): {miou - expected:+.2f} points, more than {TOLERANCE:g}; {remedy}"
    ]
