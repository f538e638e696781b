"""The networks on their device and in their modes, and what moves them: SGD for the student, Adam for G and D."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, LRScheduler, PolynomialLR

from sfda_engine.distributed.collectives import copy_from_main
from sfda_engine.distributed.optimizer_step import make_update
from sfda_engine.method.objective import Objective
from sfda_engine.method.steps import Networks, Updates
from sfda_engine.models.norms import set_momentum, share_statistics

MOMENTUM, WEIGHT_DECAY, POLY_POWER = 0.9, 1e-4, 0.9
"""The paper's, of the student's SGD and its learning rate."""
LR_WARMUP = 0.1
"""Part of the steps in which the learning rate of self-training rises: what labels say otherwise than the start has
large gradients at first, and some networks (DiCENet) were thrown back to the start."""
GENERATOR_BETAS, DISCRIMINATOR_BETAS = (0.5, 0.999), (0.9, 0.99)
BN_MOMENTUM = 0.02
"""Of the student's running statistics on target frames, where it normalizes with batches."""


def prepare_networks(
    networks: Networks,
    objective: Objective,
    accelerator: Accelerator,
    *,
    lr: float,
    generator_lr: float,
    discriminator_lr: float,
    clip_grad_norm: float | None,
    steps: int,
) -> tuple[Networks, Updates, LRScheduler]:
    """Networks, updates and the student's schedule of a run of `steps`; all processes begin with the main one's
    weights. What `objective` does not move is not prepared by Accelerate, so no checkpoint holds it."""
    student_optimizer = torch.optim.SGD(
        networks.student.parameters(), lr=lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
    )
    generator_optimizer = torch.optim.Adam(networks.generator.parameters(), lr=generator_lr, betas=GENERATOR_BETAS)
    discriminator_optimizer = torch.optim.Adam(
        networks.discriminator.parameters(), lr=discriminator_lr, betas=DISCRIMINATOR_BETAS
    )
    set_momentum(networks.student, BN_MOMENTUM)
    for network in (networks.source, networks.student, networks.generator, networks.discriminator):
        copy_from_main(network)
        network.to(memory_format=torch.channels_last)  # faster convolutions
    trained = (networks.student, networks.generator, networks.discriminator)
    for network in trained:
        share_statistics(network)
    moved = (True, objective.uses_transfer, objective.uses_ipsm)
    # evaluation_mode: not wrapped in DistributedDataParallel, see `Update`
    student, generator, discriminator = (
        accelerator.prepare_model(one, evaluation_mode=True) if moves else one.to(accelerator.device)
        for one, moves in zip(trained, moved, strict=True)
    )
    # eval mode: no dropout in any pass of the student, so that MAE measures the models and not the noise;
    # BatchNorm is governed pass by pass
    student.eval()
    source = networks.source.to(accelerator.device).eval().requires_grad_(False)
    updates = Updates(
        student=make_update(accelerator, student_optimizer, clip_grad_norm),
        generator=make_update(accelerator, generator_optimizer, clip_grad_norm),
        discriminator=make_update(accelerator, discriminator_optimizer),
    )
    schedule: LRScheduler = PolynomialLR(student_optimizer, total_iters=steps, power=POLY_POWER)
    if objective.pseudo_label_weight > 0 and (warmup := int(LR_WARMUP * steps)):
        rise = LinearLR(student_optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
        schedule = ChainedScheduler([rise, schedule])
    return Networks(source, student, generator, discriminator), updates, schedule
