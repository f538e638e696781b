"""Stages alone: who descends and who ascends (Eq. 11, 12, 15, 16), and which network gets the gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sfda_engine.losses.adversarial import discriminator_loss, split_patches
from sfda_engine.method.objective import Objective
from sfda_engine.method.ranking import rank_target
from sfda_engine.method.steps import (
    Networks,
    Updates,
    generator_terms,
    student_target_terms,
    student_transfer_terms,
    target_forward,
    target_patches,
)

GRID, TARGET = 2, (24, 32)
PAPER = Objective(alpha=1.0, beta=0.5, tau=0.5, gamma=0.01, max_square_weight=0.1, patch_grid=GRID)


def alone(weight: str, *, printed: bool = False) -> Objective:
    """One term by weight 1, all others off."""
    return replace(Objective(bns_weight=0.0, patch_grid=GRID, printed=printed), **{weight: 1.0})


def target_stage(networks: Networks, images: Tensor, objective: Objective) -> dict[str, Tensor]:
    """L_TAR and L_ADV of the student on one target pass of its own."""
    target = target_forward(networks, images, objective)
    ranked = rank_target(target.logits, grid=GRID, size=TARGET)
    patches = target_patches(target, objective, TARGET) if objective.gamma > 0 else None
    return student_target_terms(networks, ranked, patches, objective)


@pytest.mark.parametrize("printed", [False, True])
@pytest.mark.parametrize(
    ("weight", "term", "sign"),
    [("bns_weight", "bns", -1), ("alpha", "mae", +1), ("beta", "dad_ss", +1), ("tau", "dad_st", -1)],
)
def test_eq_11_the_generator_lowers_bns_and_dad_st_and_raises_mae_and_dad_ss(
    updates: Updates,
    networks: Networks,
    images: Tensor,
    weight: str,
    term: str,
    sign: int,
    printed: bool,
    latents: list[Tensor],
) -> None:
    objective = alone(weight, printed=printed)
    features, latent = networks.student(images).features, latents[0]
    first = generator_terms(networks, latent, features, objective)
    updates.generator(first["total"])
    second = generator_terms(networks, latent, features, objective)
    assert second["total"] < first["total"] - 1e-5
    assert sign * (second[term] - first[term]).item() > 1e-5


@pytest.mark.parametrize(("weight", "term"), [("alpha", "mae"), ("beta", "dad_ss")])
def test_eq_12_the_student_lowers_mae_and_dad_ss(
    updates: Updates, networks: Networks, weight: str, term: str, latents: list[Tensor]
) -> None:
    objective = alone(weight)
    first = student_transfer_terms(networks, latents[0], objective)
    updates.student(first["total"])
    assert student_transfer_terms(networks, latents[0], objective)[term] < first[term] - 1e-5


@pytest.mark.parametrize("printed", [False, True])
def test_eq_16_the_student_sharpens_its_target_predictions(
    updates: Updates, networks: Networks, images: Tensor, printed: bool
) -> None:
    objective = alone("max_square_weight", printed=printed)

    def sum_of_squares() -> float:
        return target_forward(networks, images, objective).logits.softmax(1).square().sum(1).mean().item()

    before = sum_of_squares()
    updates.student(target_stage(networks, images, objective)["total"])
    assert sum_of_squares() > before + 1e-5


@pytest.mark.parametrize("printed", [False, True])
def test_eq_16_the_student_raises_d_on_its_hard_patches(
    updates: Updates, networks: Networks, images: Tensor, printed: bool
) -> None:
    objective = alone("gamma", printed=printed)
    with torch.no_grad():
        easy = rank_target(target_forward(networks, images, objective).logits, grid=GRID, size=TARGET).easy

    def called_easy() -> float:
        with torch.no_grad():
            patches = target_patches(target_forward(networks, images, objective), objective, TARGET)
            positions = torch.arange(GRID**2).expand(len(images), -1)
            return networks.discriminator(patches[~easy], positions[~easy]).mean().item()

    before = called_easy()
    updates.student(target_stage(networks, images, objective)["total"])
    assert called_easy() > before + 1e-6


def test_eq_15_the_discriminator_lowers_its_cross_entropy(updates: Updates, networks: Networks, images: Tensor) -> None:
    with torch.no_grad():
        target = target_forward(networks, images, PAPER)
    easy = rank_target(target.logits, grid=GRID, size=TARGET).easy
    patches = target_patches(target, PAPER, TARGET)
    first = discriminator_loss(networks.discriminator, patches, easy)
    updates.discriminator(first)
    assert discriminator_loss(networks.discriminator, patches, easy) < first - 1e-5


def test_warm_up_leaves_the_terms_against_the_student_out(
    networks: Networks, images: Tensor, latents: list[Tensor]
) -> None:
    features = networks.student(images).features
    terms = generator_terms(networks, latents[0], features, PAPER, warmup=True)
    assert terms.keys() == {"bns", "dad_st", "total"}
    expected = PAPER.bns_weight * terms["bns"] + PAPER.tau * terms["dad_st"]
    torch.testing.assert_close(terms["total"], expected)


def test_max_square_is_halved_and_printed_whole(networks: Networks, images: Tensor) -> None:
    """Eq. 2 as printed is -1 x the mean over pixels of sum p^2; MaxSquare's own code halves it."""
    target = networks.student(images)
    ranked = rank_target(target.logits, grid=GRID, size=TARGET)
    pixels = functional.interpolate(target.logits, TARGET, mode="bilinear", align_corners=False)
    mean = pixels.softmax(1).square().sum(1).mean()
    for printed, expected in ((False, -0.5 * mean), (True, -mean)):
        terms = student_target_terms(networks, ranked, None, alone("max_square_weight", printed=printed))
        torch.testing.assert_close(terms["max_square"], expected)
        torch.testing.assert_close(terms["total"], expected)


@pytest.mark.parametrize("printed", [False, True])
def test_bns_is_a_mean_of_norms_and_printed_a_sum_of_squares(
    networks: Networks, latents: list[Tensor], printed: bool
) -> None:
    """Eq. 4, from batch statistics taken by hand at the input of the source's BN layers."""
    seen: dict[nn.Module, Tensor] = {}
    layers = [module for module in networks.source.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [layer.register_forward_pre_hook(lambda layer, args: seen.update({layer: args[0]})) for layer in layers]
    networks.source(networks.generator(latents[0]))
    for hook in hooks:
        hook.remove()
    squares = []
    for layer in layers:
        x = seen[layer].double()
        assert layer.running_mean is not None
        assert layer.running_var is not None
        squares.append((x.mean((0, 2, 3)) - layer.running_mean).square().sum())
        squares.append((x.var((0, 2, 3), correction=0) - layer.running_var).square().sum())
    expected = torch.stack(squares).sum() if printed else torch.stack(squares).sqrt().sum() / len(layers)
    terms = generator_terms(networks, latents[0], None, alone("bns_weight", printed=printed))
    torch.testing.assert_close(terms["bns"].double(), expected, rtol=1e-4, atol=1e-5)


def test_the_discriminator_sees_probabilities_at_half_size_or_logits_in_full(
    networks: Networks, images: Tensor
) -> None:
    target = networks.student(images)
    probabilities = target_patches(target, PAPER, TARGET)
    half = functional.interpolate(target.logits, (TARGET[0] // 2, TARGET[1] // 2), mode="bilinear", align_corners=False)
    torch.testing.assert_close(probabilities, split_patches(half.softmax(1), GRID))
    logits = target_patches(target, replace(PAPER, printed=True), TARGET)
    full = functional.interpolate(target.logits, TARGET, mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, split_patches(full, GRID))


def test_each_stage_gives_gradients_to_its_own_network_alone(
    networks: Networks, images: Tensor, latents: list[Tensor]
) -> None:
    objective = replace(PAPER, alpha=1.0, beta=1.0, tau=1.0, gamma=1.0)

    def reached(total: Tensor) -> set[str]:
        modules = vars(networks)
        for module in modules.values():
            module.zero_grad()
        total.backward()
        return {role for role, module in modules.items() if any(p.grad is not None for p in module.parameters())}

    target = target_forward(networks, images, objective)
    patches = target_patches(target, objective, TARGET)
    easy = rank_target(target.logits, grid=GRID, size=TARGET).easy
    assert reached(generator_terms(networks, latents[0], target.features, objective)["total"]) == {"generator"}
    assert reached(discriminator_loss(networks.discriminator, patches, easy)) == {"discriminator"}
    assert reached(target_stage(networks, images, objective)["total"]) == {"student"}
    assert reached(student_transfer_terms(networks, latents[1], objective)["total"]) == {"student"}
    assert all(p.requires_grad for p in networks.student.parameters())
    assert all(p.requires_grad for p in networks.discriminator.parameters())
