# mypy: disable-error-code="no-untyped-def"
"""Triton kernels over rows of Gram maps: token scales, and the KL of two maps that a matrix product has written.

`cpu_gram_kl` explains the formulas, `launch_gram_kl` launches the kernels. The maps hold the raw products x_i . x_j in
fp32; the logits are a_ij = s_i s_j x_i . x_j with s the scale of a token, and both are symmetric. A program owns its
rows: no partial sums, no atomics, the same result in every run.

B samples, T tokens, D features. `scales` (2, B, T) holds s of p, then q; `rows` (4, B, T) lse^a,
lse^b, m and KL. The logits called b there are c here, where b is the sample.
"""

from __future__ import annotations

import triton
import triton.language as tl

UNSEEN = tl.constexpr(-1e30)
"""Stands for minus infinity: exp(UNSEEN - finite) is 0, and UNSEEN - UNSEEN is not NaN."""


@triton.jit
def square_norms(x, squares, T, D, x_b, x_t, x_d, BT: tl.constexpr, BD: tl.constexpr):
    """grid (cdiv(T, BT), B): squares (B, T) = sum_d x^2."""
    b = tl.program_id(1).to(tl.int64)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    total = tl.zeros((BT,), tl.float32)
    for start in range(0, D, BD):
        d = start + tl.arange(0, BD)
        inside = (t < T)[:, None] & (d < D)[None, :]
        values = tl.load(x + b * x_b + t[:, None] * x_t + d[None, :] * x_d, mask=inside, other=0.0).to(tl.float32)
        total += tl.sum(values * values, 1)
    tl.store(squares + b * T + t, total, mask=t < T)


@triton.jit
def token_scales(squares, scales, healthy, T, root, relative_floor, absolute_floor, BT: tl.constexpr):
    """grid (B, 2): scales (2, B, T) = 1 / (root max(norm, floor)), and healthy (2, B, T) = norm > floor.

    The floor is relative to the RMS row norm of the sample, as in `reference.scale_tokens`; root = sqrt(temperature).
    """
    at = (tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)).to(tl.int64) * T
    total = tl.zeros((BT,), tl.float32)
    for start in range(0, T, BT):
        t = start + tl.arange(0, BT)
        total += tl.load(squares + at + t, mask=t < T, other=0.0)
    floor = tl.maximum(relative_floor * tl.sqrt(tl.sum(total, 0) / T), absolute_floor)
    for start in range(0, T, BT):
        t = start + tl.arange(0, BT)
        norm = tl.sqrt(tl.load(squares + at + t, mask=t < T, other=1.0))
        tl.store(scales + at + t, 1.0 / (root * tl.maximum(norm, floor)), mask=t < T)
        tl.store(healthy + at + t, (norm > floor).to(tl.int8), mask=t < T)


@triton.jit
def _map_chunk(gram, scales, row, b, i, j, T, height):
    """Logits of map rows i (rows `row` of the block in memory) by columns j: (BR, BC)."""
    inside = (row < height)[:, None] & (j < T)[None, :]
    raw = tl.load(gram + (b * height + row.to(tl.int64))[:, None] * T + j[None, :], mask=inside, other=0.0)
    own = tl.load(scales + b * T + i, mask=row < height, other=0.0)
    return raw * own[:, None] * tl.load(scales + b * T + j, mask=j < T, other=0.0)[None, :]


@triton.jit
def kl_forward_rows(
    gram_p, gram_q, scales, rows, T, top, height, shift, BR: tl.constexpr, BC: tl.constexpr, KNOWN: tl.constexpr
):
    """grid (cdiv(height, BR), B): rows [top, top + height) of `rows` from the block (B, height, T) of both raw maps.

    KNOWN: `shift` bounds every logit; otherwise each lane follows its own maximum, and the lanes merge at the end.
    """
    b = tl.program_id(1).to(tl.int64)
    batch = tl.num_programs(1)
    row = tl.program_id(0) * BR + tl.arange(0, BR)
    i = top + row
    largest_p = tl.full((BR, BC), shift if KNOWN else UNSEEN, tl.float32)
    largest_q = largest_p
    mass_p = tl.zeros((BR, BC), tl.float32)
    mass_q = tl.zeros((BR, BC), tl.float32)
    weighted = tl.zeros((BR, BC), tl.float32)
    for start in range(0, T, BC):
        j = start + tl.arange(0, BC)
        a = _map_chunk(gram_p, scales, row, b, i, j, T, height)
        c = _map_chunk(gram_q, scales + batch * T, row, b, i, j, T, height)
        difference = a - c
        a = tl.where((j < T)[None, :], a, UNSEEN)
        c = tl.where((j < T)[None, :], c, UNSEEN)
        if not KNOWN:
            new_p = tl.maximum(largest_p, a)
            new_q = tl.maximum(largest_q, c)
            fade = tl.exp(largest_p - new_p)
            mass_p *= fade
            weighted *= fade
            mass_q *= tl.exp(largest_q - new_q)
            largest_p = new_p
            largest_q = new_q
        e = tl.exp(a - largest_p)
        mass_p += e
        weighted += e * difference
        mass_q += tl.exp(c - largest_q)
    max_p = tl.max(largest_p, 1)
    max_q = tl.max(largest_q, 1)
    fade = tl.exp(largest_p - max_p[:, None])
    total_p = tl.sum(mass_p * fade, 1)
    lse_p = max_p + tl.log(total_p)
    lse_q = max_q + tl.log(tl.sum(mass_q * tl.exp(largest_q - max_q[:, None]), 1))
    mean = tl.sum(weighted * fade, 1) / total_p
    at = rows + b * T + i
    tl.store(at, lse_p, mask=row < height)
    tl.store(at + batch * T, lse_q, mask=row < height)
    tl.store(at + 2 * batch * T, mean, mask=row < height)
    tl.store(at + 3 * batch * T, mean - lse_p + lse_q, mask=row < height)


@triton.jit
def kl_backward_rows(
    gram_p, gram_q, scales, healthy, rows, grad, w, T, top, height, temperature,
    BR: tl.constexpr, BC: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """grid (cdiv(height, BR), B): rows of w (B, height, T) with dX = w X for X = p, or q if TARGET.

    w_kj = s_k s_j W_kj off the diagonal. The derivative of a healthy token's norm is the diagonal: W_kk drops out,
    since a_kk is constant, and -s_k^2 temperature sum_{j != k} W_kj a_kj takes its place.
    """
    b = tl.program_id(1).to(tl.int64)
    batch = tl.num_programs(1)
    row = tl.program_id(0) * BR + tl.arange(0, BR)
    i = top + row
    of_tokens = scales + batch * T if TARGET else scales
    in_rows = row < height
    lse_p = tl.load(rows + b * T + i, mask=in_rows, other=0.0)
    lse_q = tl.load(rows + (batch + b) * T + i, mask=in_rows, other=0.0)
    mean = tl.load(rows + (2 * batch + b) * T + i, mask=in_rows, other=0.0)
    own = tl.load(of_tokens + b * T + i, mask=in_rows, other=0.0)
    scale = tl.load(grad + b) / T
    radial = tl.zeros((BR, BC), tl.float32)
    diagonal = tl.zeros((BR, BC), tl.float32)
    for start in range(0, T, BC):
        j = start + tl.arange(0, BC)
        in_columns = j < T
        a = _map_chunk(gram_p, scales, row, b, i, j, T, height)
        c = _map_chunk(gram_q, scales + batch * T, row, b, i, j, T, height)
        other_p = tl.load(rows + b * T + j, mask=in_columns, other=0.0)[None, :]
        other_q = tl.load(rows + (batch + b) * T + j, mask=in_columns, other=0.0)[None, :]
        other_mean = tl.load(rows + (2 * batch + b) * T + j, mask=in_columns, other=0.0)[None, :]
        beside = tl.exp(a - lse_p[:, None])
        below = tl.exp(a - other_p)
        if TARGET:
            weight = tl.exp(c - lse_q[:, None]) - beside + tl.exp(c - other_q) - below
            a = c
        else:
            weight = beside * (a - c - mean[:, None]) + below * (a - c - other_mean)
        weight = tl.where(in_columns[None, :], weight * scale, 0.0)
        on_diagonal = i[:, None] == j[None, :]
        radial += tl.where(on_diagonal, 0.0, weight * a)
        diagonal += tl.where(on_diagonal, weight, 0.0)
        out = weight * own[:, None] * tl.load(of_tokens + b * T + j, mask=in_columns, other=0.0)[None, :]
        at = w + (b * height + row.to(tl.int64))[:, None] * T + j[None, :]
        elsewhere = in_rows[:, None] & in_columns[None, :] & (i[:, None] != j[None, :])
        tl.store(at, out.to(w.dtype.element_ty), mask=elsewhere)
    of_healthy = healthy + batch * T if TARGET else healthy
    differentiated = tl.load(of_healthy + b * T + i, mask=in_rows, other=0) != 0
    value = own * own * tl.where(differentiated, -temperature * tl.sum(radial, 1), tl.sum(diagonal, 1))
    tl.store(w + (b * height + row.to(tl.int64)) * T + i, value.to(w.dtype.element_ty), mask=in_rows)
