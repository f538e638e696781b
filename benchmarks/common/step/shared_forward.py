"""An experiment: one synthetic batch and one forward pass serve the generator's and the student's update.

Not the engine's step: the student then learns on the images that the generator has just been updated for, instead of
ones drawn anew from the updated generator (Eq. 12). It saves a pass through G, S~ and S each.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sfda_engine.losses.adversarial import discriminator_loss
from sfda_engine.losses.bn_statistics import bns_loss, record_statistics
from sfda_engine.losses.distillation import dad_st_loss
from sfda_engine.method.objective import Objective
from sfda_engine.method.ranking import rank_target
from sfda_engine.method.steps import (
    Networks,
    Updates,
    student_target_terms,
    synthetic_statistics,
    target_forward,
    target_patches,
    transfer_terms,
)


def shared_forward_step(
    networks: Networks,
    updates: Updates,
    images: Tensor,
    latents: list[Tensor],
    objective: Objective,
    autocast: Callable,
) -> dict[str, Tensor]:
    """As `adaptation_step`, with `latents[0]` for both updates."""
    size = (images.shape[-2], images.shape[-1])
    generator, student = (update.optimizer.param_groups for update in (updates.generator, updates.student))
    of_generator, of_student = ([p for group in groups for p in group["params"]] for groups in (generator, student))
    with autocast():
        target = target_forward(networks, images, objective)
        synthetic = networks.generator(latents[0])
        with record_statistics(networks.source) as layers:
            source = networks.source(synthetic)
        with synthetic_statistics(networks, objective):
            out = networks.student(synthetic)
        terms = transfer_terms(source, out, objective)
        bns = bns_loss(layers, printed=objective.printed)
        kl = dad_st_loss(source.features, target.features.detach(), objective.attention)
        ascent = objective.alpha * terms["mae"].log1p() + objective.beta * terms["dad_ss"].log1p()
        ranked = rank_target(target.logits, grid=objective.patch_grid, size=size)
        patches = target_patches(target, objective, size)
        bce = discriminator_loss(networks.discriminator, patches, ranked.easy)
    updates.discriminator(bce)
    with autocast():
        own = student_target_terms(networks, ranked, patches, objective)
    eq16 = own["total"] + objective.alpha * terms["mae"] + objective.beta * terms["dad_ss"]
    eq11 = objective.bns_weight * bns + objective.tau * kl - ascent
    # both gradients on the weights that made the graph, before either optimizer moves them
    for parameters, loss, keep in ((of_generator, eq11, True), (of_student, eq16, False)):
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters, retain_graph=keep), strict=True
        ):
            parameter.grad = gradient
    for update, parameters in ((updates.generator, of_generator), (updates.student, of_student)):
        if update.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, update.clip_grad_norm)
    for update in (updates.generator, updates.student):
        update.optimizer.step()
        update.optimizer.zero_grad()
    return {"generator/total": eq11.detach(), "discriminator/bce": bce.detach(), "student/total": eq16.detach()}
