"""Stages alone: who descends and who ascends (Eq. 11, 12, 15, 16), and which network gets the gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sfda_engine.config.presets import PRESETS
from sfda_engine.config.schema import MethodConfig
from sfda_engine.losses.adversarial import discriminator_loss, split_patches
from sfda_engine.method.ranking import rank_target
from sfda_engine.method.steps import (
    Networks,
    Updates,
    generator_terms,
    max_square_term,
    student_target_terms,
    student_transfer_terms,
    target_forward,
    target_patches,
)

GRID, TARGET = 2, (24, 32)
METHOD = MethodConfig(patch_grid=GRID)
OFF: dict[str, Any] = {"bns_weight": 0.0, "alpha": 0.0, "beta": 0.0, "tau": 0.0, "gamma": 0.0, "max_square_weight": 0.0}


def target_stage(networks: Networks, images: Tensor, method: MethodConfig) -> dict[str, Tensor]:
    """L_TAR and L_ADV of the student on one target pass of its own."""
    target = target_forward(networks, images, method)
    ranked = rank_target(target.logits, grid=method.patch_grid, size=TARGET)
    patches = target_patches(target, method, TARGET) if method.gamma > 0 else None
    return student_target_terms(networks, target, ranked, patches, method, TARGET)


@pytest.mark.parametrize("discrepancy", ["log", "linear"])
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
    discrepancy: Any,
    latents: list[Tensor],
) -> None:
    method = replace(METHOD, **(OFF | {weight: 1.0}), discrepancy=discrepancy)
    features, latent = networks.student(images).features, latents[0]
    first = generator_terms(networks, latent, features, method)
    updates.generator(first["total"])
    second = generator_terms(networks, latent, features, method)
    assert second["total"] < first["total"] - 1e-5
    assert sign * (second[term] - first[term]).item() > 1e-5


@pytest.mark.parametrize(("weight", "term"), [("alpha", "mae"), ("beta", "dad_ss")])
def test_eq_12_the_student_lowers_mae_and_dad_ss(
    updates: Updates, networks: Networks, weight: str, term: str, latents: list[Tensor]
) -> None:
    method = replace(METHOD, **(OFF | {weight: 1.0}))
    first = student_transfer_terms(networks, latents[0], method)
    updates.student(first["total"])
    assert student_transfer_terms(networks, latents[0], method)[term] < first[term] - 1e-5


@pytest.mark.parametrize("image_weighted", [False, True])
def test_eq_16_the_student_sharpens_its_target_predictions(
    updates: Updates, networks: Networks, images: Tensor, image_weighted: bool
) -> None:
    method = replace(METHOD, **(OFF | {"max_square_weight": 1.0}), max_square_image_weighted=image_weighted)

    def sum_of_squares() -> float:
        return target_forward(networks, images, method).logits.softmax(1).square().sum(1).mean().item()

    before = sum_of_squares()
    updates.student(target_stage(networks, images, method)["total"])
    assert sum_of_squares() > before + 1e-5


@pytest.mark.parametrize("shown", ["probabilities", "logits"])
def test_eq_16_the_student_raises_d_on_its_hard_patches(
    updates: Updates, networks: Networks, images: Tensor, shown: Any
) -> None:
    method = replace(METHOD, **(OFF | {"gamma": 1.0}), discriminator_input=shown)
    with torch.no_grad():
        easy = rank_target(target_forward(networks, images, method).logits, grid=GRID, size=TARGET).easy

    def called_easy() -> float:
        with torch.no_grad():
            patches = target_patches(target_forward(networks, images, method), method, TARGET)
            positions = torch.arange(GRID**2).expand(len(images), -1)
            return networks.discriminator(patches[~easy], positions[~easy]).mean().item()

    before = called_easy()
    updates.student(target_stage(networks, images, method)["total"])
    assert called_easy() > before + 1e-6


def test_eq_15_the_discriminator_lowers_its_cross_entropy(updates: Updates, networks: Networks, images: Tensor) -> None:
    with torch.no_grad():
        target = target_forward(networks, images, METHOD)
    easy = rank_target(target.logits, grid=GRID, size=TARGET).easy
    patches = target_patches(target, METHOD, TARGET)
    first = discriminator_loss(networks.discriminator, patches, easy)
    updates.discriminator(first)
    assert discriminator_loss(networks.discriminator, patches, easy) < first - 1e-5


def test_warm_up_leaves_the_terms_against_the_student_out(
    networks: Networks, images: Tensor, latents: list[Tensor]
) -> None:
    features = networks.student(images).features
    terms = generator_terms(networks, latents[0], features, METHOD, warmup=True)
    assert terms.keys() == {"bns", "dad_st", "total"}
    expected = METHOD.bns_weight * terms["bns"] + METHOD.tau * terms["dad_st"]
    torch.testing.assert_close(terms["total"], expected)


def test_max_square_has_the_scale_of_the_preset(networks: Networks, images: Tensor) -> None:
    """Eq. 2 as printed is -1 x the mean over pixels of sum p^2; MaxSquare's own code halves it."""
    target = networks.student(images)
    ranked = rank_target(target.logits, grid=GRID, size=TARGET)
    pixels = nn.functional.interpolate(target.logits, TARGET, mode="bilinear", align_corners=False)
    mean = pixels.softmax(1).square().sum(1).mean()
    literal = replace(METHOD, **PRESETS["literal"])
    torch.testing.assert_close(max_square_term(target, ranked, METHOD, TARGET), -0.5 * mean)
    torch.testing.assert_close(max_square_term(target, ranked, literal, TARGET), -mean)


def test_the_discriminator_sees_probabilities_at_half_size_or_logits_in_full(
    networks: Networks, images: Tensor
) -> None:
    target = networks.student(images)
    probabilities = target_patches(target, METHOD, TARGET)
    half = functional.interpolate(target.logits, (TARGET[0] // 2, TARGET[1] // 2), mode="bilinear", align_corners=False)
    torch.testing.assert_close(probabilities, split_patches(half.softmax(1), METHOD.patch_grid))
    logits = target_patches(target, replace(METHOD, discriminator_input="logits"), TARGET)
    full = functional.interpolate(target.logits, TARGET, mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, split_patches(full, METHOD.patch_grid))


def test_each_stage_gives_gradients_to_its_own_network_alone(
    networks: Networks, images: Tensor, latents: list[Tensor]
) -> None:
    method = replace(METHOD, alpha=1.0, beta=1.0, tau=1.0, gamma=1.0)

    def reached(total: Tensor) -> set[str]:
        modules = vars(networks)
        for module in modules.values():
            module.zero_grad()
        total.backward()
        return {role for role, module in modules.items() if any(p.grad is not None for p in module.parameters())}

    target = target_forward(networks, images, method)
    patches = target_patches(target, method, TARGET)
    easy = rank_target(target.logits, grid=GRID, size=TARGET).easy
    assert reached(generator_terms(networks, latents[0], target.features, method)["total"]) == {"generator"}
    assert reached(discriminator_loss(networks.discriminator, patches, easy)) == {"discriminator"}
    assert reached(target_stage(networks, images, method)["total"]) == {"student"}
    assert reached(student_transfer_terms(networks, latents[1], method)["total"]) == {"student"}
    assert all(p.requires_grad for p in networks.student.parameters())
    assert all(p.requires_grad for p in networks.discriminator.parameters())
