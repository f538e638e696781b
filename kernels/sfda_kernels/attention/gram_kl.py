"""The Gram KL, one branch of Eq. 7: which code runs it."""

from __future__ import annotations

from torch import Tensor

from sfda_kernels.attention import cpu_gram_kl, cpu_scaled_tokens, reference
from sfda_kernels.attention.shift import logit_bound
from sfda_kernels.precision import widen_pair


def gram_kl(p: Tensor, q: Tensor, temperature: float, cosine: bool, kernels: bool) -> Tensor:
    """Mean over the rows of the KL of the attention maps of two sets of raw tokens, nats: (B, T, D) twice -> (B,).

    By the Triton `kernels`, else by formula on the CPU, else by the reference. fp32, or float64 where a side is.
    """
    if kernels:
        from sfda_kernels.attention import launch_gram_kl  # here, as it imports triton

        return launch_gram_kl.gram_kl(p, q, temperature, cosine)
    p, q = widen_pair(p, q)
    if p.device.type == "cpu":
        u, v = (cpu_scaled_tokens.scale_tokens(tokens, temperature, cosine) for tokens in (p, q))
        return cpu_gram_kl.gram_kl(u, v, logit_bound(temperature, cosine))
    u, v = (reference.scale_tokens(tokens, temperature, cosine) for tokens in (p, q))
    return reference.gram_kl(u, v)
