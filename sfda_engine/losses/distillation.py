"""L_MAE, L_DAD^ss and L_DAD^st, Eq. 5 to 7: how far student and source are apart, in outputs and in attention."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

import sfda_kernels
from sfda_engine.distributed.collectives import mean
from sfda_engine.losses.attention import AttentionSettings


def mae_loss(source_logits: Tensor, student_logits: Tensor) -> Tensor:
    """Eq. 5: mean absolute difference of the logits (B, K, h, w), over all elements."""
    return mean(functional.l1_loss(student_logits.float(), source_logits.float()))


def dad_ss_loss(source_features: Tensor, student_features: Tensor, settings: AttentionSettings) -> Tensor:
    """Eq. 6: L1 between the dual-attention features of source and student on synthetic images, batch mean."""
    distances = sfda_kernels.attention_l1(
        source_features, student_features, temperature=settings.temperature, cosine=settings.cosine
    )
    return mean(distances.mean())


def dad_st_loss(synthetic_features: Tensor, target_features: Tensor, settings: AttentionSettings) -> Tensor:
    """Eq. 7: KL of the attention maps of synthetic images in the source against target frames in the student.

    `target_features` (B, C, h', w') are pooled to the grid of `synthetic_features` (B, C, h, w), as the paper does
    "before DAM"; a larger target batch is cut to the synthetic one. Sum of the spatial and the channel term, nats.
    """
    height, width = synthetic_features.shape[-2:]
    pooled = functional.adaptive_avg_pool2d(target_features[: len(synthetic_features)], (height, width))
    spatial, channel = sfda_kernels.attention_kl(
        synthetic_features, pooled, temperature=settings.temperature, cosine=settings.cosine
    )
    return mean(spatial.mean() + channel.mean())
