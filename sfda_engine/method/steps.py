"""One adaptation step: target forward, discriminator (Eq. 15), the student's target terms (Eq. 2, 16), generator
(Eq. 11), the student's transfer terms (Eq. 12). Every stage is a function from networks and inputs to named loss terms;
`Update` descends on them. No update but the last moves the student, so the order is free, and this one lets go of the
target pass, by far the largest, before the generator's begins.

Shapes: B batch, K classes, H/W target size, h/w synthetic size, G patch grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfda_engine.distributed.optimizer_step import Update
from sfda_engine.losses.adversarial import adversarial_loss, discriminator_loss, split_patches
from sfda_engine.losses.bn_statistics import bns_loss, record_statistics
from sfda_engine.losses.distillation import dad_ss_loss, dad_st_loss, mae_loss
from sfda_engine.losses.pseudo_label import pseudo_label_loss
from sfda_engine.method.objective import Objective
from sfda_engine.method.ranking import RankedPatches, rank_target
from sfda_engine.models.norms import batch_norm_statistics, lent_statistics
from sfda_engine.models.segmenter import SegmenterOutput, upsample

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Networks:
    """The four networks: `source` S~ is frozen and in eval mode, the others are trained."""

    source: nn.Module
    student: nn.Module
    generator: nn.Module
    discriminator: nn.Module


@dataclass(frozen=True)
class SelfTraining:
    """Augmented target frames (B, 3, H, W), normalized, with pseudo-labels (B, H, W) int64, 255 ignored."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Updates:
    student: Update
    generator: Update
    discriminator: Update


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through a module without computing those of its parameters."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def synthetic_statistics(networks: Networks, objective: Objective) -> AbstractContextManager[None]:
    """What the student normalizes synthetic images with, in the passes inside.

    With the source's statistics, as the source itself, MAE and DAD are 0 for equal weights: only what training changes
    is penalized. A fresh student has none of its own yet, so it writes those of the images.
    """
    if objective.fresh:
        return batch_norm_statistics(networks.student, "update")
    if objective.synthetic_bn == "source":
        return lent_statistics(networks.student, networks.source)
    return batch_norm_statistics(networks.student, objective.synthetic_bn)


def target_forward(networks: Networks, images: Tensor, objective: Objective) -> SegmenterOutput:
    """The one pass of target frames (B, 3, H, W) that L_TAR, L_DAD^st and IPSM share."""
    gradient = nullcontext() if objective.uses_target_loss else torch.no_grad()
    with gradient, batch_norm_statistics(networks.student, objective.target_statistics):
        return networks.student(images)


def generator_terms(
    networks: Networks,
    latent: Tensor,
    target_features: Tensor | None,
    objective: Objective,
    *,
    warmup: bool = False,
) -> Terms:
    """Eq. 11: L_BNS - alpha MAE - beta DAD_ss + tau DAD_st; `warmup` leaves the two terms against the student out.

    latent (B, 256); target_features (B, C, h', w') of target frames, detached here.
    """
    synthetic = networks.generator(latent)
    with record_statistics(networks.source) as layers:
        source = networks.source(synthetic)
    terms = {"bns": bns_loss(layers, printed=objective.printed)}
    total = objective.bns_weight * terms["bns"]
    if objective.tau > 0 and target_features is not None:
        terms["dad_st"] = dad_st_loss(source.features, target_features.detach(), objective.attention)
        total = total + objective.tau * terms["dad_st"]
    if not warmup:
        with frozen(networks.student), synthetic_statistics(networks, objective):
            student = networks.student(synthetic)
        bounded: Callable[[Tensor], Tensor] = torch.clone if objective.printed else torch.log1p
        terms |= transfer_terms(source, student, objective)
        total = total - objective.alpha * bounded(terms["mae"])
        if "dad_ss" in terms:
            total = total - objective.beta * bounded(terms["dad_ss"])
    return terms | {"total": total}


def transfer_terms(source: SegmenterOutput, student: SegmenterOutput, objective: Objective) -> Terms:
    """Eq. 5 and 6 on one synthetic batch; DAD_ss only where beta asks for it."""
    terms = {"mae": mae_loss(source.logits, student.logits)}
    if objective.beta > 0:
        terms["dad_ss"] = dad_ss_loss(source.features, student.features, objective.attention)
    return terms


def student_transfer_terms(networks: Networks, latent: Tensor, objective: Objective) -> Terms:
    """Eq. 12: alpha MAE + beta DAD_ss on a synthetic batch drawn anew; generator and source get no gradient."""
    with torch.no_grad():
        synthetic = networks.generator(latent)
        source = networks.source(synthetic)
    with synthetic_statistics(networks, objective):
        student = networks.student(synthetic)
    terms = transfer_terms(source, student, objective)
    total = objective.alpha * terms["mae"]
    if "dad_ss" in terms:
        total = total + objective.beta * terms["dad_ss"]
    return terms | {"total": total}


def student_target_terms(
    networks: Networks, ranked: RankedPatches, patches: Tensor | None, objective: Objective
) -> Terms:
    """L_TAR + gamma L_ADV of Eq. 16, on the shared target pass."""
    # the operator's is halved, as in MaxSquare's own code
    terms = {"max_square": 2 * ranked.max_square if objective.printed else ranked.max_square}
    total = objective.max_square_weight * terms["max_square"]
    if patches is not None:
        with frozen(networks.discriminator):
            terms["adversarial"] = adversarial_loss(networks.discriminator, patches, ranked.easy)
        total = total + objective.gamma * terms["adversarial"]
    return terms | {"total": total}


def self_training_terms(networks: Networks, batch: SelfTraining, objective: Objective) -> Terms:
    """Cross-entropy on pseudo-labels, which the paper does not have; the pass leaves the running statistics alone."""
    with batch_norm_statistics(networks.student, objective.unwritten_statistics):
        logits = networks.student(batch.images).logits
    loss = pseudo_label_loss(logits, batch.labels)
    return {"pseudo_label": loss, "total": objective.pseudo_label_weight * loss}


def target_patches(target: SegmenterOutput, objective: Objective, size: tuple[int, int]) -> Tensor:
    """The patches of `size` (H, W) that D sees: (B, G*G, K, ph, pw), of probabilities or, as Eq. 15 prints, of logits.

    Differs from the paper: probabilities come at half the target's size where the head is no finer than that, since
    upsampling them further adds cost (D was two thirds of a step) and no information.
    """
    logits = target.logits.float()
    if objective.printed:
        return split_patches(upsample(logits, size), objective.patch_grid)
    height, width = (
        max(side // 2, own, objective.patch_grid) for side, own in zip(size, logits.shape[-2:], strict=True)
    )
    maps = upsample(logits, (height, width)).softmax(1)
    return split_patches(maps, objective.patch_grid)


def logged(stage: str, terms: Terms) -> Terms:
    """Detached terms under the names that a log line has."""
    return {f"{stage}/{name}": value.detach() for name, value in terms.items()}


def target_stage(
    networks: Networks, updates: Updates, images: Tensor, objective: Objective, autocast: Callable
) -> tuple[Terms, Tensor]:
    """The target pass: D descends on Eq. 15, the student gathers the gradient of L_TAR + gamma L_ADV.

    Returns what to log, and the detached features (B, C, h', w') of the frames.
    """
    noted: Terms = {}
    with autocast():
        target = target_forward(networks, images, objective)
    features = target.features.detach()
    if not objective.uses_target_loss:
        return noted, features
    size = (images.shape[-2], images.shape[-1])
    with autocast():
        ranked = rank_target(target.logits, grid=objective.patch_grid, size=size)
        patches = target_patches(target, objective, size) if objective.uses_ipsm else None
    if patches is not None:
        with autocast():
            bce = discriminator_loss(networks.discriminator, patches, ranked.easy)
        noted |= logged("discriminator", {"bce": bce})
        updates.discriminator(bce)
    with autocast():
        terms = student_target_terms(networks, ranked, patches, objective)
    updates.student.backward(terms["total"])
    return noted | logged("student", terms), features


def self_training_stage(
    networks: Networks, updates: Updates, batch: SelfTraining, objective: Objective, autocast: Callable
) -> Terms:
    """The student gathers the gradient of the cross-entropy on pseudo-labels. Returns what to log."""
    with autocast():
        terms = self_training_terms(networks, batch, objective)
    updates.student.backward(terms["total"])
    return logged("student", terms)


def transfer_stage(
    networks: Networks,
    updates: Updates,
    latents: list[Tensor],
    target_features: Tensor | None,
    objective: Objective,
    autocast: Callable,
) -> Terms:
    """G descends on Eq. 11 once for each latent but the last, the student gathers the gradient of Eq. 12 on that one.

    Returns what to log.
    """
    noted: Terms = {}
    for latent in latents[:-1]:
        with autocast():
            terms = generator_terms(networks, latent, target_features, objective)
        noted |= logged("generator", terms)
        updates.generator(terms["total"])
    with autocast():
        terms = student_transfer_terms(networks, latents[-1], objective)
    updates.student.backward(terms["total"])
    return noted | logged("student", terms)


def adaptation_step(
    networks: Networks,
    updates: Updates,
    images: Tensor,
    latents: list[Tensor],
    objective: Objective,
    autocast: Callable,
    self_training: SelfTraining | None = None,
) -> Terms:
    """One alternation of generator, discriminator and student on target frames (B, 3, H, W), normalized.

    latents: one (B, 256) for each generator update and one for the student. Returns the detached terms by name.
    """
    features: Tensor | None = None
    stages: list[Terms] = []
    if objective.uses_target_pass:
        terms, features = target_stage(networks, updates, images, objective, autocast)
        stages.append(terms)
    if self_training is not None:
        stages.append(self_training_stage(networks, updates, self_training, objective, autocast))
    if objective.uses_transfer:
        stages.append(transfer_stage(networks, updates, latents, features, objective, autocast))
    updates.student.step()
    noted = {name: value for terms in stages for name, value in terms.items()}
    totals = [terms["student/total"] for terms in stages if "student/total" in terms]
    return noted | {"student/total": sum(totals, start=torch.zeros((), device=images.device))}
