"""An experiment: one synthetic batch and one forward pass serve the generator's and the student's update.

Not the engine's step: the student then learns on the images that the generator has just been updated for, instead of
ones drawn anew from the updated generator (Eq. 12). It saves a pass through G, S~ and S each.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sfda_engine.config.schema import MethodConfig
from sfda_engine.losses.adversarial import discriminator_loss
from sfda_engine.losses.attention import attention_settings
from sfda_engine.losses.bn_statistics import bns_loss, record_statistics
from sfda_engine.losses.distillation import dad_st_loss
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
from sfda_engine.models.norms import batch_norm_statistics


def shared_forward_step(
    networks: Networks,
    updates: Updates,
    images: Tensor,
    latents: list[Tensor],
    method: MethodConfig,
    autocast: Callable,
) -> dict[str, Tensor]:
    """As `adaptation_step`, with `latents[0]` for both updates."""
    size = (images.shape[-2], images.shape[-1])
    generator, student = (update.optimizer.param_groups for update in (updates.generator, updates.student))
    of_generator, of_student = ([p for group in groups for p in group["params"]] for groups in (generator, student))
    with autocast():
        target = target_forward(networks, images, method)
        synthetic = networks.generator(latents[0])
        with record_statistics(networks.source) as layers:
            source = networks.source(synthetic)
        with batch_norm_statistics(networks.student, synthetic_statistics(method)):
            out = networks.student(synthetic)
        terms = transfer_terms(source, out, method)
        bns = bns_loss(layers, norm=method.bns_norm)
        kl = dad_st_loss(source.features, target.features.detach(), attention_settings(method))
        ascent = method.alpha * terms["mae"].log1p() + method.beta * terms["dad_ss"].log1p()
        ranked = rank_target(target.logits, grid=method.patch_grid, size=size)
        patches = target_patches(target, method, size)
        bce = discriminator_loss(networks.discriminator, patches, ranked.easy)
    updates.discriminator(bce)
    with autocast():
        own = student_target_terms(networks, target, ranked, patches, method, size)
    eq16 = own["total"] + method.alpha * terms["mae"] + method.beta * terms["dad_ss"]
    eq11 = method.bns_weight * bns + method.tau * kl - ascent
    # both gradients on the weights that made the graph, before either optimizer moves them
    for parameters, loss, keep in ((of_generator, eq11, True), (of_student, eq16, False)):
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters, retain_graph=keep), strict=True
        ):
            parameter.grad = gradient
    if updates.generator.clip_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(of_generator, updates.generator.clip_grad_norm)
    for update in (updates.generator, updates.student):
        update.optimizer.step()
        update.optimizer.zero_grad()
    return {"generator/total": eq11.detach(), "discriminator/bce": bce.detach(), "student/total": eq16.detach()}
