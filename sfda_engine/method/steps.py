"""One adaptation step: target forward, discriminator (Eq. 15), the student's target terms (Eq. 2, 16), generator
(Eq. 11), the student's transfer terms (Eq. 12). Every stage is a function from networks and inputs to named loss terms;
`Update` descends on them. No update but the last moves the student, so the order is free, and this one lets go of the
target pass, by far the largest, before the generator's begins.

Shapes: B batch, K classes, H/W target size, h/w synthetic size, G patch grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfda_engine.config.schema import MethodConfig
from sfda_engine.distributed.optimizer_step import Update
from sfda_engine.losses.adversarial import adversarial_loss, discriminator_loss, split_patches
from sfda_engine.losses.attention import attention_settings
from sfda_engine.losses.bn_statistics import bns_loss, record_statistics
from sfda_engine.losses.distillation import dad_ss_loss, dad_st_loss, mae_loss
from sfda_engine.losses.max_square import image_weighted_max_square
from sfda_engine.losses.pseudo_label import pseudo_label_loss
from sfda_engine.method.ranking import RankedPatches, rank_target
from sfda_engine.models.generator import View
from sfda_engine.models.norms import Statistics, batch_norm_statistics
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


def uses_transfer(method: MethodConfig) -> bool:
    """Whether synthetic images are needed: alpha = beta = 0 skips generator and transfer."""
    return method.alpha > 0 or method.beta > 0


def uses_ipsm(method: MethodConfig) -> bool:
    """Whether patches are ranked and D is trained: K = 1 means no IPSM, as gamma = 0."""
    return method.gamma > 0 and method.patch_grid > 1


def uses_target_loss(method: MethodConfig) -> bool:
    """Whether any loss of the student reads its target predictions; without one, *transfer only* is left."""
    return method.max_square_weight > 0 or uses_ipsm(method)


def synthetic_statistics(method: MethodConfig) -> Statistics:
    """BN policy of the student on synthetic images: a fresh student has none of its own yet, so it writes them."""
    return "update" if method.student_init == "fresh" else method.synthetic_bn


def target_statistics(method: MethodConfig) -> Statistics:
    """BN policy of the student on target frames."""
    if method.target_bn == "running":
        return "running"
    return "batch" if method.student_init == "fresh" else "update"


def unwritten_statistics(method: MethodConfig) -> Statistics:
    """BN policy of the student on target frames in passes that leave its running statistics alone."""
    return "running" if method.target_bn == "running" else "batch"


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


def target_forward(networks: Networks, images: Tensor, method: MethodConfig) -> SegmenterOutput:
    """The one pass of target frames (B, 3, H, W) that L_TAR, L_DAD^st and IPSM share."""
    gradient = nullcontext() if uses_target_loss(method) else torch.no_grad()
    with gradient, batch_norm_statistics(networks.student, target_statistics(method)):
        return networks.student(images)


def generator_terms(
    networks: Networks,
    latent: Tensor,
    target_features: Tensor | None,
    method: MethodConfig,
    *,
    warmup: bool = False,
    view: View | None = None,
) -> Terms:
    """Eq. 11: L_BNS - alpha MAE - beta DAD_ss + tau DAD_st; `warmup` leaves the two terms against the student out.

    latent (B, 256); `view` is what G draws of it, None = its own size; target_features (B, C, h', w') of what that
    stands for, detached here. With discrepancy "log" the unbounded terms enter
    as -log(1 + .), which the paper does not: as printed, the generator wins by exploding.
    """
    attention = attention_settings(method)
    synthetic = networks.generator(latent, view)
    with record_statistics(networks.source) as layers:
        source = networks.source(synthetic)
    terms = {"bns": bns_loss(layers, norm=method.bns_norm)}
    total = method.bns_weight * terms["bns"]
    if method.tau > 0 and target_features is not None:
        terms["dad_st"] = dad_st_loss(source.features, target_features.detach(), attention)
        total = total + method.tau * terms["dad_st"]
    if not warmup:
        with frozen(networks.student), batch_norm_statistics(networks.student, synthetic_statistics(method)):
            student = networks.student(synthetic)
        bounded: Callable[[Tensor], Tensor] = torch.log1p if method.discrepancy == "log" else torch.clone
        terms |= transfer_terms(source, student, method)
        total = total - method.alpha * bounded(terms["mae"])
        if "dad_ss" in terms:
            total = total - method.beta * bounded(terms["dad_ss"])
    return terms | {"total": total}


def transfer_terms(source: SegmenterOutput, student: SegmenterOutput, method: MethodConfig) -> Terms:
    """Eq. 5 and 6 on one synthetic batch; DAD_ss only where beta asks for it."""
    terms = {"mae": mae_loss(source.logits, student.logits)}
    if method.beta > 0:
        terms["dad_ss"] = dad_ss_loss(source.features, student.features, attention_settings(method))
    return terms


def student_transfer_terms(networks: Networks, latent: Tensor, method: MethodConfig, view: View | None = None) -> Terms:
    """Eq. 12: alpha MAE + beta DAD_ss on a synthetic batch drawn anew; generator and source get no gradient."""
    with torch.no_grad():
        synthetic = networks.generator(latent, view)
        source = networks.source(synthetic)
    with batch_norm_statistics(networks.student, synthetic_statistics(method)):
        student = networks.student(synthetic)
    terms = transfer_terms(source, student, method)
    total = method.alpha * terms["mae"]
    if "dad_ss" in terms:
        total = total + method.beta * terms["dad_ss"]
    return terms | {"total": total}


def max_square_term(
    target: SegmenterOutput, ranked: RankedPatches, method: MethodConfig, size: tuple[int, int]
) -> Tensor:
    """Eq. 2 by the scale that the preset asks for: -scale x mean over pixels of sum p^2 (printed: scale 1)."""
    if method.max_square_image_weighted:
        return 2 * method.max_square_scale * image_weighted_max_square(target.logits, size)
    return 2 * method.max_square_scale * ranked.max_square


def student_target_terms(
    networks: Networks,
    target: SegmenterOutput,
    ranked: RankedPatches,
    patches: Tensor | None,
    method: MethodConfig,
    size: tuple[int, int],
) -> Terms:
    """L_TAR + gamma L_ADV of Eq. 16, on the shared target pass; size (H, W)."""
    terms = {"max_square": max_square_term(target, ranked, method, size)}
    total = method.max_square_weight * terms["max_square"]
    if patches is not None:
        with frozen(networks.discriminator):
            terms["adversarial"] = adversarial_loss(networks.discriminator, patches, ranked.easy)
        total = total + method.gamma * terms["adversarial"]
    return terms | {"total": total}


def self_training_terms(networks: Networks, batch: SelfTraining, method: MethodConfig) -> Terms:
    """Cross-entropy on pseudo-labels, which the paper does not have; the pass leaves the running statistics alone."""
    with batch_norm_statistics(networks.student, unwritten_statistics(method)):
        logits = networks.student(batch.images).logits
    loss = pseudo_label_loss(logits, batch.labels)
    return {"pseudo_label": loss, "total": method.pseudo_label_weight * loss}


def target_patches(target: SegmenterOutput, method: MethodConfig, size: tuple[int, int]) -> Tensor:
    """The patches that D sees: (B, G*G, K, ph, pw), of softmax probabilities or, as Eq. 15 prints, of logits.

    Differs from the paper: probabilities come at half the target's size where the head is no finer than that, since
    upsampling them further adds cost (D was two thirds of a step) and no information.
    """
    logits = target.logits.float()
    if method.discriminator_input == "logits":
        return split_patches(upsample(logits, size), method.patch_grid)
    height, width = (max(side // 2, own, method.patch_grid) for side, own in zip(size, logits.shape[-2:], strict=True))
    maps = upsample(logits, (height, width)).softmax(1)
    return split_patches(maps, method.patch_grid)


def adaptation_step(
    networks: Networks,
    updates: Updates,
    images: Tensor,
    latents: list[Tensor],
    method: MethodConfig,
    autocast: Callable,
    self_training: SelfTraining | None = None,
    view: View | None = None,
) -> dict[str, Tensor]:
    """One alternation of generator, discriminator and student on target frames (B, 3, H, W), normalized.

    latents: one (B, 256) for each generator update and one for the student; `view` is what all of them are drawn as,
    None = the generator's own size. Returns the detached terms by name.
    """
    size = (images.shape[-2], images.shape[-1])
    logged: dict[str, Tensor] = {}

    def note(stage: str, terms: Terms) -> Terms:
        logged.update({f"{stage}/{name}": value.detach() for name, value in terms.items()})
        return terms

    with autocast():
        target = target_forward(networks, images, method)

    student_total = torch.zeros((), device=images.device)
    if uses_target_loss(method):
        with autocast():
            ranked = rank_target(target.logits, grid=method.patch_grid, size=size)
            patches = target_patches(target, method, size) if uses_ipsm(method) else None
        if patches is not None:
            with autocast():
                bce = note("discriminator", {"bce": discriminator_loss(networks.discriminator, patches, ranked.easy)})
            updates.discriminator(bce["bce"])
        with autocast():
            terms = note("student", student_target_terms(networks, target, ranked, patches, method, size))
        updates.student.backward(terms["total"])
        student_total = student_total + terms["total"].detach()
        del ranked, patches

    target_features = target.features.detach()
    if view is not None:
        target_features = view.of_features(target_features, size)
    del target  # and with it the graph of the target pass

    if self_training is not None:
        with autocast():
            terms = note("student", self_training_terms(networks, self_training, method))
        updates.student.backward(terms["total"])
        student_total = student_total + terms["total"].detach()

    if uses_transfer(method):
        for latent in latents[:-1]:
            with autocast():
                terms = note("generator", generator_terms(networks, latent, target_features, method, view=view))
            updates.generator(terms["total"])
        with autocast():
            terms = note("student", student_transfer_terms(networks, latents[-1], method, view))
        updates.student.backward(terms["total"])
        student_total = student_total + terms["total"].detach()

    updates.student.step()
    return logged | {"student/total": student_total}
