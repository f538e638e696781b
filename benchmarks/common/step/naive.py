"""One adaptation step after the paper, plainly: autograd for every gradient, a forward pass for each equation.

It shares networks and objective with the engine and none of its loss code, and gives the same losses on the same
draws. Eq. 11, 12 and 16 each run their own forward passes, logits are upsampled to the full size before anything is
computed from them, and gradients that a network does not need are computed and thrown away, as in any plain GAN loop.
It is no straw man: passes that need no gradient run without one, and optimizers are PyTorch's.

Shapes: B batch, K classes, G patch grid.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.common.equations import attention_kl, attention_l1, patch_entropy
from benchmarks.common.step.phases import phase
from sfda_engine.config.schema import MethodConfig
from sfda_engine.method.objective import Objective
from sfda_engine.method.steps import Networks
from sfda_engine.models.norms import Statistics, batch_norm_layers, batch_norm_statistics, lent_statistics
from sfda_engine.models.segmenter import SegmenterOutput


@dataclass(frozen=True)
class Optimizers:
    student: torch.optim.Optimizer
    generator: torch.optim.Optimizer
    discriminator: torch.optim.Optimizer
    clip_grad_norm: float | None = None
    """Largest gradient norm of the student, and of the generator."""


def make_optimizers(networks: Networks, method: MethodConfig) -> Optimizers:
    """The paper's: SGD with Nesterov momentum for the student, Adam for generator and discriminator."""
    return Optimizers(
        torch.optim.SGD(
            networks.student.parameters(),
            lr=method.lr,
            momentum=0.9,
            weight_decay=1e-4,
            nesterov=True,
        ),
        torch.optim.Adam(networks.generator.parameters(), method.generator_lr, betas=(0.5, 0.999)),
        torch.optim.Adam(networks.discriminator.parameters(), method.discriminator_lr, betas=(0.9, 0.99)),
        method.clip_grad_norm,
    )


def cut_patches(maps: Tensor, grid: int) -> Tensor:
    """(B, K, H, W) -> (B, G*G, K, ph, pw); patches a pixel short are resized to the largest."""
    size = (-(-maps.shape[2] // grid), -(-maps.shape[3] // grid))
    patches = [patch for row in maps.tensor_split(grid, 2) for patch in row.tensor_split(grid, 3)]
    return torch.stack([F.interpolate(patch, size, mode="bilinear", align_corners=False) for patch in patches], 1)


def patches_for_discriminator(logits: Tensor, objective: Objective, size: tuple[int, int]) -> Tensor:
    """Logits at full size, as Eq. 15 prints, or probabilities at half of it."""
    if objective.printed:
        return cut_patches(F.interpolate(logits, size, mode="bilinear", align_corners=False), objective.patch_grid)
    half = [max(side // 2, own, objective.patch_grid) for side, own in zip(size, logits.shape[2:], strict=True)]
    return cut_patches(
        F.interpolate(logits, half, mode="bilinear", align_corners=False).softmax(1), objective.patch_grid
    )


def attention_of(objective: Objective) -> tuple[float, bool]:
    """Temperature of the attention maps, and whether they compare by cosine; without one, by the dot product."""
    return (1.0, False) if objective.temperature is None else (objective.temperature, True)


def bns(inputs: list[tuple[_BatchNorm, Tensor]], objective: Objective) -> Tensor:
    """Eq. 4: batch statistics at the input of each BatchNorm layer against the stored ones."""
    differences = []
    for layer, x in inputs:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        differences.append(x.mean((0, 2, 3)) - layer.running_mean)
        differences.append(x.var((0, 2, 3), correction=0) - layer.running_var)
    if objective.printed:
        return torch.stack([difference.square().sum() for difference in differences]).sum()
    return torch.stack([difference.norm() for difference in differences]).sum() / len(inputs)


def source_with_inputs(source: nn.Module, images: Tensor) -> tuple[SegmenterOutput, list[tuple[_BatchNorm, Tensor]]]:
    """Forward pass of S~ and what entered each of its BatchNorm layers, but for 1 x 1 inputs."""
    seen: list[tuple[_BatchNorm, Tensor]] = []

    def keep(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        if arguments[0].shape[2:].numel() > 1:
            seen.append((layer, arguments[0].float()))

    hooks = [layer.register_forward_pre_hook(keep) for layer in batch_norm_layers(source).values()]
    out = source(images)
    for hook in hooks:
        hook.remove()
    return full_precision(out), seen


def full_precision(out: SegmenterOutput) -> SegmenterOutput:
    """Outputs in fp32: every loss is computed there."""
    return SegmenterOutput(out.logits.float(), out.features.float())


def eq11(networks: Networks, latent: Tensor, images: Tensor, objective: Objective) -> dict[str, Tensor]:
    """What the generator descends on: L_BNS - alpha MAE - beta DAD_ss + tau DAD_st."""
    with phase("student forward"), torch.no_grad(), batch_norm_statistics(networks.student, objective.target_bn):
        target = full_precision(networks.student(images))
    with phase("generator forward"):
        synthetic = networks.generator(latent)
    with phase("source forward"):
        source, inputs = source_with_inputs(networks.source, synthetic)
    with phase("student forward"), lent_statistics(networks.student, networks.source):
        student = full_precision(networks.student(synthetic))
    with torch.autocast(images.device.type, enabled=False):
        with phase("BN statistics"):
            terms = {"bns": bns(inputs, objective)}
        with phase("attention KL"):
            height, width = source.features.shape[2:]
            pooled = F.adaptive_avg_pool2d(target.features, (height, width))
            kl = attention_kl(source.features, pooled, *attention_of(objective))
            terms["dad_st"] = kl[0].mean() + kl[1].mean()
        terms |= transfer(source, student, objective)
    bounded = torch.clone if objective.printed else torch.log1p
    total = objective.bns_weight * terms["bns"] + objective.tau * terms["dad_st"]
    total = total - objective.alpha * bounded(terms["mae"]) - objective.beta * bounded(terms["dad_ss"])
    return terms | {"total": total}


def transfer(source: SegmenterOutput, student: SegmenterOutput, objective: Objective) -> dict[str, Tensor]:
    """Eq. 5 and 6 between two outputs."""
    with phase("attention L1"):
        dad = attention_l1(source.features, student.features, *attention_of(objective)).mean()
    return {"mae": (source.logits - student.logits).abs().mean(), "dad_ss": dad}


def eq12(networks: Networks, latent: Tensor, objective: Objective) -> dict[str, Tensor]:
    """What the student descends on, on a synthetic batch drawn anew: alpha MAE + beta DAD_ss."""
    with torch.no_grad():
        with phase("generator forward"):
            synthetic = networks.generator(latent)
        with phase("source forward"):
            source = full_precision(networks.source(synthetic))
    with phase("student forward"), lent_statistics(networks.student, networks.source):
        student = full_precision(networks.student(synthetic))
    with torch.autocast(latent.device.type, enabled=False):
        return transfer(source, student, objective)


def bce(discriminator: nn.Module, patches: Tensor, chosen: Tensor, label: float) -> Tensor:
    """Binary cross-entropy of D on the chosen (B, G*G) of patches (B, G*G, K, ph, pw)."""
    positions = torch.arange(chosen.shape[1], device=chosen.device).expand_as(chosen)[chosen]
    logits = discriminator(patches[chosen], positions).float()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def descend(role: str, optimizer: torch.optim.Optimizer, loss: Tensor, clip: float | None = None) -> None:
    """One optimizer step on `loss`."""
    with phase(f"{role} backward"):
        loss.backward()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    with phase("optimizers"):
        optimizer.step()


def naive_step(
    networks: Networks,
    optimizers: Optimizers,
    images: Tensor,
    latents: list[Tensor],
    objective: Objective,
    autocast: Callable = nullcontext,
) -> dict[str, Tensor]:
    """One alternation on target frames (B, 3, H, W), the engine's draws and schedule; its terms by the same names."""
    size = (images.shape[2], images.shape[3])

    # Eq. 11: the generator. Gradients of the student come with it and are dropped below.
    for latent in latents[:-1]:
        with autocast():
            generator = eq11(networks, latent, images, objective)
        optimizers.generator.zero_grad()
        descend("generator", optimizers.generator, generator["total"], optimizers.clip_grad_norm)
    optimizers.student.zero_grad()

    # Eq. 13 to 15: rank the patches of the student's target predictions, train the discriminator on them.
    with autocast():
        written: Statistics = "update" if objective.target_bn == "batch" else "running"
        with phase("student forward"), batch_norm_statistics(networks.student, written):
            target = full_precision(networks.student(images))
        with phase("ranking"), torch.autocast(images.device.type, enabled=False):
            _, rank, max_square = patch_entropy(target.logits, objective.patch_grid, size)
        easy = rank < len(images) // 2
        with phase("patches for D"):
            patches = patches_for_discriminator(target.logits, objective, size)
        with phase("discriminator"):
            seen = patches.detach()
            loss = bce(networks.discriminator, seen, easy, 1.0) + bce(networks.discriminator, seen, ~easy, 0.0)
    optimizers.discriminator.zero_grad()
    descend("discriminator", optimizers.discriminator, loss)

    # Eq. 16: the student; its transfer terms are Eq. 12.
    with autocast():
        with phase("discriminator"):
            adversarial = bce(networks.discriminator, patches, ~easy, 1.0)
        student = eq12(networks, latents[-1], objective)
    student |= {"max_square": 2 * max_square if objective.printed else max_square, "adversarial": adversarial}
    total = objective.max_square_weight * student["max_square"] + objective.gamma * adversarial
    total = total + objective.alpha * student["mae"] + objective.beta * student["dad_ss"]
    descend("student", optimizers.student, total, optimizers.clip_grad_norm)
    optimizers.student.zero_grad()

    stages = {"generator": generator, "discriminator": {"bce": loss}, "student": student | {"total": total}}
    return {f"{stage}/{name}": term.detach() for stage, terms in stages.items() for name, term in terms.items()}
