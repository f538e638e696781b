# mypy: disable-error-code="no-untyped-def"
"""Triton kernels of the attended L1: everything but its matrix products, which are cuBLAS's.

`cpu_attended_l1` explains the formulas, `launch_attended_l1` launches the kernels. A program owns its rows: no partial
sums, no atomics, the same result in every run. B samples, T tokens, D features.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sfda_kernels.attention.triton_gram_rows import UNSEEN


@triton.jit
def _logits(gram, scales, i, j, T):
    """Rows i and columns j of a map: raw products (T, T) times the scale of either token."""
    raw = tl.load(gram + i[:, None] * T + j[None, :], mask=(i < T)[:, None] & (j < T)[None, :], other=0.0)
    own = tl.load(scales + i, mask=i < T, other=0.0)
    logits = raw * own[:, None] * tl.load(scales + j, mask=j < T, other=0.0)[None, :]
    return tl.where((j < T)[None, :], logits, UNSEEN)


@triton.jit
def attention_rows(gram, scales, attention, lse, T, BR: tl.constexpr, BC: tl.constexpr):
    """grid (cdiv(T, BR), B): attention (B, T, T) = softmax of the logits, lse (B, T), from raw products (B, T, T)."""
    b = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BR + tl.arange(0, BR)
    gram += b * T * T
    attention += b * T * T
    scales += b * T
    largest = tl.full((BR, BC), UNSEEN, tl.float32)
    mass = tl.zeros((BR, BC), tl.float32)
    for start in range(0, T, BC):
        a = _logits(gram, scales, i, start + tl.arange(0, BC), T)
        new = tl.maximum(largest, a)
        mass = mass * tl.exp(largest - new) + tl.exp(a - new)
        largest = new
    row_max = tl.max(largest, 1)
    row_lse = row_max + tl.log(tl.sum(mass * tl.exp(largest - row_max[:, None]), 1))
    tl.store(lse + b * T + i, row_lse, mask=i < T)
    for start in range(0, T, BC):  # the second reading comes from the cache
        j = start + tl.arange(0, BC)
        a = _logits(gram, scales, i, j, T)
        inside = (i < T)[:, None] & (j < T)[None, :]
        values = tl.exp(a - row_lse[:, None]).to(attention.dtype.element_ty)
        tl.store(attention + i[:, None] * T + j[None, :], values, mask=inside)


@triton.jit
def sign_rows(attended_t, attended_s, sign, delta_t, delta_s, T, D, BR: tl.constexpr, BC: tl.constexpr):
    """grid (cdiv(T, BR), B): sign (B, T, D) of A^t - A^s, and delta (B, T) = sum_d sign A of either side."""
    b = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BR + tl.arange(0, BR)
    total_t = tl.zeros((BR, BC), tl.float32)
    total_s = tl.zeros((BR, BC), tl.float32)
    for start in range(0, D, BC):
        d = start + tl.arange(0, BC)
        inside = (i < T)[:, None] & (d < D)[None, :]
        at = (b * T + i)[:, None] * D + d[None, :]
        t = tl.load(attended_t + at, mask=inside, other=0.0)
        s = tl.load(attended_s + at, mask=inside, other=0.0)
        direction = tl.where(t > s, 1.0, tl.where(t < s, -1.0, 0.0))
        total_t += direction * t
        total_s += direction * s
        tl.store(sign + at, direction.to(tl.int8), mask=inside)
    tl.store(delta_t + b * T + i, tl.sum(total_t, 1), mask=i < T)
    tl.store(delta_s + b * T + i, tl.sum(total_s, 1), mask=i < T)


@triton.jit
def attention_backward_rows(
    attention, v, lse, delta, scales, healthy, grad, w, T, temperature, BR: tl.constexpr, BC: tl.constexpr
):
    """grid (cdiv(T, BR), B): w (B, T, T) such that the path through the map adds w X to dX.

    v (B, T, T) = sign x^T, so with the attention S: W_ij = g (S_ij (v_ij - delta_i) + S_ji (v_ji - delta_j)). From W
    to w as in `triton_gram_rows.kl_backward_rows`; the logit is read back as log S + lse.
    """
    b = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BR + tl.arange(0, BR)
    in_rows = i < T
    attention += b * T * T
    v += b * T * T
    w += b * T * T
    lse += b * T
    delta += b * T
    scales += b * T
    lse_i = tl.load(lse + i, mask=in_rows, other=0.0)
    delta_i = tl.load(delta + i, mask=in_rows, other=0.0)
    own = tl.load(scales + i, mask=in_rows, other=0.0)
    scale = tl.load(grad + b)
    radial = tl.zeros((BR, BC), tl.float32)
    diagonal = tl.zeros((BR, BC), tl.float32)
    for start in range(0, T, BC):
        j = start + tl.arange(0, BC)
        in_columns = j < T
        inside = in_rows[:, None] & in_columns[None, :]
        beside = tl.load(attention + i[:, None] * T + j[None, :], mask=inside, other=0.0).to(tl.float32)
        lse_j = tl.load(lse + j, mask=in_columns, other=0.0)
        delta_j = tl.load(delta + j, mask=in_columns, other=0.0)
        v_ij = tl.load(v + i[:, None] * T + j[None, :], mask=inside, other=0.0)
        v_ji = tl.load(v + j[None, :] * T + i[:, None], mask=inside, other=0.0)
        logit = tl.log(tl.maximum(beside, 1e-37)) + lse_i[:, None]
        below = tl.exp(logit - lse_j[None, :])
        weight = beside * (v_ij - delta_i[:, None]) + below * (v_ji - delta_j[None, :])
        weight = tl.where(inside, weight * scale, 0.0)
        on_diagonal = i[:, None] == j[None, :]
        radial += tl.where(on_diagonal, 0.0, weight * logit)
        diagonal += tl.where(on_diagonal, weight, 0.0)
        out = weight * own[:, None] * tl.load(scales + j, mask=in_columns, other=0.0)[None, :]
        elsewhere = inside & (i[:, None] != j[None, :])
        tl.store(w + i[:, None] * T + j[None, :], out.to(w.dtype.element_ty), mask=elsewhere)
    differentiated = tl.load(healthy + b * T + i, mask=in_rows, other=0) != 0
    value = own * own * tl.where(differentiated, -temperature * tl.sum(radial, 1), tl.sum(diagonal, 1))
    tl.store(w + i * T + i, value.to(w.dtype.element_ty), mask=in_rows)
