# mypy: disable-error-code="no-untyped-def"
"""Triton kernels over tiles of Gram maps that are never written: the KL of two maps from the features themselves.

`cpu_gram_kl` explains the formulas, `launch_gram_kl` launches the kernels. A tile of both maps is computed only on and
above the diagonal and serves both halves. Every slot of a partial sum has one writer and slots are added in order:
no atomics, the same result in every run. For cosine similarity, where a bound on the logits is known.

B samples, T tokens, D features. `scales` (2, B, T) holds the scale of a token, p's, then q's; `rows` (4, B, T) lse^a,
lse^b, m and KL; the logits called b there are c here, where b is the sample. UPCAST: triton's interpreter multiplies
bfloat16 as integers, so there operands become fp32 on load.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tile_of(index):
    """The tile (i, j), i <= j, of a linear index; neighbours share the column."""
    j = ((tl.sqrt(8.0 * index.to(tl.float32) + 1.0) - 1.0) * 0.5).to(tl.int32)
    j = tl.where((j + 1) * (j + 2) // 2 <= index, j + 1, j)  # the square root may be off by one
    j = tl.where(j * (j + 1) // 2 > index, j - 1, j)
    return index - j * (j + 1) // 2, j


@triton.jit
def _gram_tile(x, i, j, T, D, x_t, x_d, BT: tl.constexpr, BD: tl.constexpr, UPCAST: tl.constexpr):
    """x_i . x_j in fp32: (BT, BT)."""
    d = tl.arange(0, BD)
    left = x + i[:, None] * x_t + d[None, :] * x_d
    right = x + d[:, None] * x_d + j[None, :] * x_t
    total = tl.zeros((BT, BT), tl.float32)
    for start in range(0, D, BD):
        inside = start + d < D
        u = tl.load(left, mask=(i < T)[:, None] & inside[None, :], other=0.0)
        v = tl.load(right, mask=inside[:, None] & (j < T)[None, :], other=0.0)
        if UPCAST:
            u = u.to(tl.float32)
            v = v.to(tl.float32)
        total = tl.dot(u, v, total, input_precision="ieee")
        left += BD * x_d
        right += BD * x_d
    return total


@triton.jit
def _scale_tile(tile, scales, i, j, T):
    own = tl.load(scales + i, mask=i < T, other=0.0)
    return tile * own[:, None] * tl.load(scales + j, mask=j < T, other=0.0)[None, :]


@triton.jit
def kl_forward_tiles(
    p, q, scales, parts, T, D, p_b, p_t, p_d, q_b, q_t, q_d, shift,
    BT: tl.constexpr, BD: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """grid (NB (NB + 1) / 2, B), NB = cdiv(T, BT): parts (B, NB, 3, T), of a row over one block of columns.

    The three are sum e^(a - shift), sum e^(b - shift) and sum e^(a - shift) (a - b); `shift` bounds every logit.
    """
    tile_i, tile_j = _tile_of(tl.program_id(0))
    b = tl.program_id(1).to(tl.int64)
    batch = tl.num_programs(1)
    blocks = tl.cdiv(T, BT)
    i = tile_i * BT + tl.arange(0, BT)
    j = tile_j * BT + tl.arange(0, BT)
    a = _gram_tile(p + b * p_b, i, j, T, D, p_t, p_d, BT, BD, UPCAST)
    c = _gram_tile(q + b * q_b, i, j, T, D, q_t, q_d, BT, BD, UPCAST)
    a = _scale_tile(a, scales + b * T, i, j, T)
    c = _scale_tile(c, scales + (batch + b) * T, i, j, T)
    inside = (i < T)[:, None] & (j < T)[None, :]
    mass_p = tl.where(inside, tl.exp(a - shift), 0.0)
    mass_q = tl.where(inside, tl.exp(c - shift), 0.0)
    weighted = mass_p * (a - c)
    at = parts + (b * blocks + tile_j) * 3 * T + i
    tl.store(at, tl.sum(mass_p, 1), mask=i < T)
    tl.store(at + T, tl.sum(mass_q, 1), mask=i < T)
    tl.store(at + 2 * T, tl.sum(weighted, 1), mask=i < T)
    if tile_i != tile_j:
        at = parts + (b * blocks + tile_i) * 3 * T + j
        tl.store(at, tl.sum(mass_p, 0), mask=j < T)
        tl.store(at + T, tl.sum(mass_q, 0), mask=j < T)
        tl.store(at + 2 * T, tl.sum(weighted, 0), mask=j < T)


@triton.jit
def kl_merge_tiles(parts, rows, T, blocks, shift, BT: tl.constexpr):
    """grid (cdiv(T, BT), B): `rows` from the parts of all column blocks."""
    b = tl.program_id(1).to(tl.int64)
    batch = tl.num_programs(1)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    mass_p = tl.zeros((BT,), tl.float32)
    mass_q = tl.zeros((BT,), tl.float32)
    weighted = tl.zeros((BT,), tl.float32)
    for block in range(blocks):
        at = parts + (b * blocks + block) * 3 * T + t
        mass_p += tl.load(at, mask=t < T, other=1.0)
        mass_q += tl.load(at + T, mask=t < T, other=1.0)
        weighted += tl.load(at + 2 * T, mask=t < T, other=0.0)
    log_p = tl.log(mass_p)
    log_q = tl.log(mass_q)
    mean = weighted / mass_p
    at = rows + b * T + t
    tl.store(at, shift + log_p, mask=t < T)
    tl.store(at + batch * T, shift + log_q, mask=t < T)
    tl.store(at + 2 * batch * T, mean, mask=t < T)
    tl.store(at + 3 * batch * T, mean - log_p + log_q, mask=t < T)


@triton.jit
def _halves(tile, WIDTH: tl.constexpr):
    """Left and right half of the columns; in registers for the layouts of a matrix product."""
    return tl.split(tl.permute(tl.reshape(tile, (tile.shape[0], 2, WIDTH // 2)), (0, 2, 1)))


@triton.jit
def _backward_piece(a, c, scales, rows, w, column_part, i, j, T, batch, shift, scale, off_diagonal):
    """Writes w for the raw piece (i, j) and its mirror image; returns its part of sum_{j != k} W_kj a_kj of rows i."""
    a = _scale_tile(a, scales, i, j, T)
    c = _scale_tile(c, scales + batch * T, i, j, T)
    # One exponential for the row and the column softmax: what differs is a factor of rank one.
    alpha_i = tl.where(i < T, tl.exp(shift - tl.load(rows + i, mask=i < T, other=0.0)) * scale, 0.0)
    alpha_j = tl.where(j < T, tl.exp(shift - tl.load(rows + j, mask=j < T, other=0.0)) * scale, 0.0)
    mean_i = tl.load(rows + 2 * batch * T + i, mask=i < T, other=0.0)
    mean_j = tl.load(rows + 2 * batch * T + j, mask=j < T, other=0.0)
    weight = alpha_i[:, None] * (a - c - mean_i[:, None]) + alpha_j[None, :] * (a - c - mean_j[None, :])
    weight *= tl.exp(a - shift)
    inside = (i < T)[:, None] & (j < T)[None, :]
    radial = tl.where(i[:, None] == j[None, :], 0.0, weight * a)  # outside the map a is 0
    if off_diagonal:
        tl.store(column_part + j, tl.sum(radial, 0), mask=j < T)
    out = _scale_tile(weight, scales, i, j, T).to(w.dtype.element_ty)
    tl.store(w + i[:, None] * T + j[None, :], out, mask=inside)
    if off_diagonal:
        tl.store(w + j[:, None] * T + i[None, :], tl.trans(out), mask=(j < T)[:, None] & (i < T)[None, :])
    return tl.sum(radial, 1)


@triton.jit
def kl_backward_tiles(
    p, q, scales, rows, grad, w, parts, T, D, p_b, p_t, p_d, q_b, q_t, q_d, shift,
    BT: tl.constexpr, BD: tl.constexpr, SPLIT: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """grid (NB (NB + 1) / 2, B): w (B, T, T) as in `kl_backward_rows` but for the diagonal of healthy tokens, and
    parts (B, NB, T) of sum_{j != k} W_kj a_kj, one slot for each block of columns. SPLIT: the epilogue in four
    column strips, or 128 x 128 spills."""
    tile_i, tile_j = _tile_of(tl.program_id(0))
    b = tl.program_id(1).to(tl.int64)
    batch = tl.num_programs(1)
    blocks = tl.cdiv(T, BT)
    i = tile_i * BT + tl.arange(0, BT)
    j = tile_j * BT + tl.arange(0, BT)
    a = _gram_tile(p + b * p_b, i, j, T, D, p_t, p_d, BT, BD, UPCAST)
    c = _gram_tile(q + b * q_b, i, j, T, D, q_t, q_d, BT, BD, UPCAST)
    scales += b * T
    rows += b * T
    w += b * T * T
    scale = tl.load(grad + b) / T
    column_part = parts + (b * blocks + tile_i) * T
    off_diagonal = tile_i != tile_j
    if SPLIT:
        a_left, a_right = _halves(a, BT)
        c_left, c_right = _halves(c, BT)
        a_0, a_1 = _halves(a_left, BT // 2)
        c_0, c_1 = _halves(c_left, BT // 2)
        a_2, a_3 = _halves(a_right, BT // 2)
        c_2, c_3 = _halves(c_right, BT // 2)
        j = tile_j * BT + tl.arange(0, BT // 4)
        part = _backward_piece(a_0, c_0, scales, rows, w, column_part, i, j, T, batch, shift, scale, off_diagonal)
        j += BT // 4
        part += _backward_piece(a_1, c_1, scales, rows, w, column_part, i, j, T, batch, shift, scale, off_diagonal)
        j += BT // 4
        part += _backward_piece(a_2, c_2, scales, rows, w, column_part, i, j, T, batch, shift, scale, off_diagonal)
        j += BT // 4
        part += _backward_piece(a_3, c_3, scales, rows, w, column_part, i, j, T, batch, shift, scale, off_diagonal)
    else:
        part = _backward_piece(a, c, scales, rows, w, column_part, i, j, T, batch, shift, scale, off_diagonal)
    tl.store(parts + (b * blocks + tile_j) * T + i, part, mask=i < T)


@triton.jit
def kl_diagonal(parts, scales, healthy, w, T, blocks, temperature, BT: tl.constexpr):
    """grid (cdiv(T, BT), B): the diagonal of w for healthy tokens, from the parts of `kl_backward_tiles`."""
    b = tl.program_id(1).to(tl.int64)
    t = tl.program_id(0) * BT + tl.arange(0, BT)
    radial = tl.zeros((BT,), tl.float32)
    for block in range(blocks):
        radial += tl.load(parts + (b * blocks + block) * T + t, mask=t < T, other=0.0)
    own = tl.load(scales + b * T + t, mask=t < T, other=0.0)
    differentiated = tl.load(healthy + b * T + t, mask=t < T, other=0) != 0
    value = (-own * own * temperature * radial).to(w.dtype.element_ty)
    tl.store(w + b * T * T + t * T + t, value, mask=(t < T) & differentiated)
