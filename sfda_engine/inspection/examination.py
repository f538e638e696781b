"""Intake: what the source model alone and a few frames tell, before a run, of their fit. No label is opened."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate.utils import parse_flag_from_env
from torch import nn

from sfda_engine.data.frame_sample import FrameSample, read_sample
from sfda_engine.data.images import ImageSize
from sfda_engine.data.readers import Images
from sfda_engine.errors import UserError
from sfda_engine.inspection.convention import ConventionFits, fit_conventions, normalized, source_distance
from sfda_engine.inspection.findings import (
    Finding,
    convention_findings,
    frame_findings,
    model_findings,
    size_findings,
)
from sfda_engine.models.norms import batch_norm_layers, rests_on_batch_norm
from sfda_engine.models.preprocess import Exposure, gamma_exposure
from sfda_engine.models.weights import WeightsInfo

FRAMES = 16


@dataclass(frozen=True, kw_only=True)
class Intake:
    """The whole examination. Measurements are None where they could not be made."""

    frames: FrameSample
    batch_norm_layers: int
    conventions: ConventionFits | None
    distance: dict[Exposure, float] | None
    """Distance of the frames from the source, without and with exposure correction; 0 = as the source's own."""
    exposure: Exposure
    """What the run would use."""
    findings: tuple[Finding, ...]

    @property
    def refused(self) -> bool:
        return any(finding.severity == "refuse" for finding in self.findings)


def examine(
    model: nn.Module,
    info: WeightsInfo,
    images: Images,
    *,
    size: ImageSize,
    exposure: Exposure,
    count: int = FRAMES,
) -> Intake:
    """Examine a segmenter in eval mode (left as it is) and `count` frames at `size` (width, height) on its device."""
    sample, frames = read_sample(images, count, size)
    findings = [*frame_findings(sample), *size_findings(sample, size, info), *model_findings(model, info)]
    conventions: ConventionFits | None = None
    distance: dict[Exposure, float] | None = None
    # what BatchNorm statistics tell was calibrated on networks that rest on them
    if rests_on_batch_norm(model) and len(frames) > 1 and not any(finding.severity == "refuse" for finding in findings):
        frames = frames.to(next(model.parameters()).device)
        bright = gamma_exposure(frames)
        conventions = fit_conventions(model, bright, info.normalization)
        distance = {
            "none": source_distance(model, normalized(frames, info.normalization)),
            "gamma": source_distance(model, normalized(bright, info.normalization)),
        }
        findings += convention_findings(conventions, info.normalization)
    return Intake(
        frames=sample,
        batch_norm_layers=len(batch_norm_layers(model)),
        conventions=conventions,
        distance=distance,
        exposure=exposure,
        findings=tuple(sorted(findings, key=lambda finding: ("refuse", "warn", "note").index(finding.severity))),
    )


def examination_device() -> torch.device:
    """This process's GPU where the launcher lets it use one, else the CPU; Accelerate is not set up for it."""
    if torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU"):
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def exposure_of(info: WeightsInfo, stated: Exposure | Literal["auto"]) -> Exposure:
    """The exposure that is stated, or the source's own where it is yet to be chosen."""
    return info.exposure if stated == "auto" else stated


def heed(intake: Intake, *, refuse: bool) -> list[str]:
    """The warnings of an examination, as text; its refusals too, unless `refuse`: they are raised as UserError then."""
    refusals = [str(finding) for finding in intake.findings if finding.severity == "refuse"]
    if refusals and refuse:
        aside = "(sfda inspect shows the figures, --model.check_input false goes on nevertheless)"
        raise UserError("\n".join(refusals) + f" {aside}")
    return refusals + [str(finding) for finding in intake.findings if finding.severity == "warn"]
