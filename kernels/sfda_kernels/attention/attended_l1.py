"""The L1 of attended tokens, one branch of Eq. 6: which code runs it."""

from __future__ import annotations

from torch import Tensor

from sfda_kernels.attention import cpu_attended_l1, cpu_scaled_tokens, reference
from sfda_kernels.attention.shift import logit_bound
from sfda_kernels.precision import widen_pair


def attended_l1(teacher: Tensor, student: Tensor, temperature: float, cosine: bool, kernels: bool) -> Tensor:
    """Sum over tokens and features of |S^t x^t - S^s x^s| of two sets of raw tokens x, (B, T, D) twice -> (B,).

    By the Triton `kernels`, else by formula on the CPU, else by the reference. fp32, or float64 where a side is.
    """
    if kernels:
        from sfda_kernels.attention import launch_attended_l1  # here, as it imports triton

        return launch_attended_l1.attended_l1(teacher, student, temperature, cosine)
    t, s = widen_pair(teacher, student)
    if t.device.type == "cpu":
        u, v = (cpu_scaled_tokens.scale_tokens(values, temperature, cosine) for values in (t, s))
        return cpu_attended_l1.attended_l1((u, t), (v, s), logit_bound(temperature, cosine))
    u, v = (reference.scale_tokens(values, temperature, cosine) for values in (t, s))
    return reference.attended_l1((u, t), (v, s))
