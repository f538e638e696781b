"""Patch entropy in Triton: one thread an output column, the bilinear upsampling inside, no atomics.

B images, K classes, logits of (h, w) nodes, H x W pixels, G x G patches. The pixels between two neighboring rows
of nodes are a cell row: they interpolate the same 2 K values of their column, which a program loads once.

Forward: a program sums entropy and sum_c p^2 down its columns over a strip of one row of patches; `rank_kernel` adds
the sums of a patch in a fixed order. Backward: a program owns one cell row and sums, down its columns, the gradient
of the nodes above and below; `gather_kernel` adds the columns of each node in a fixed order. Every element of every
output is written by exactly one program, so that equal inputs give equal bits.

Importing this module imports triton, which reads TRITON_INTERPRET here, where the kernels are defined.
"""

from __future__ import annotations

# mypy: disallow-untyped-defs=False
import triton
import triton.language as tl

from sfda_kernels.reference import MASKED

_MASKED = tl.constexpr(MASKED)


@triton.jit
def _source(pixel, low, high, ALIGN: tl.constexpr):
    """Node before a pixel and the weight of the next one, for `low` nodes upsampled to `high`; exact in integers."""
    if ALIGN:
        unit = tl.maximum(high - 1, 1)
        scaled = pixel * (low - 1)
    else:
        unit = 2 * high
        scaled = tl.maximum((2 * pixel + 1) * low - high, 0)
    node = scaled // unit
    weight = (scaled - node * unit).to(tl.float32) / unit
    return node, tl.where(node < low - 1, weight, 0.0)


@triton.jit
def _first_pixel(node, low, high, ALIGN: tl.constexpr):
    """First pixel whose `_source` is this node or a later one; `high` where there is none."""
    if ALIGN:
        step = tl.maximum(low - 1, 1)
        scaled = node * tl.maximum(high - 1, 1)
    else:
        step = 2 * low
        scaled = tl.maximum((2 * node + 1) * high - low, 0)
    pixel = tl.minimum((scaled + step - 1) // step, high)
    return tl.where(node <= 0, 0, tl.where(node < low, pixel, high))


@triton.jit
def _patch_start(patch, size, grid):
    """First pixel of a patch, with the borders of torch.tensor_split: the first size % grid are one longer."""
    return patch * (size // grid) + tl.minimum(patch, size % grid)


@triton.jit
def _patch_of(pixel, size, grid):
    short = size // grid
    longer = size % grid
    border = longer * (short + 1)
    return tl.where(pixel < border, pixel // (short + 1), longer + (pixel - border) // short)


@triton.jit
def _load_row(image, row, column, weight, k, classes, stride_k, stride_h, stride_w, inside, low_width,
              IDENTITY: tl.constexpr):  # fmt: skip
    """One row of nodes interpolated to the program's columns, (BK, BX) fp32, -inf as in the reference."""
    mask = (k < classes)[:, None] & inside[None, :]
    base = image + row.to(tl.int64) * stride_h + (k.to(tl.int64) * stride_k)[:, None]
    left = tl.load(base + (column.to(tl.int64) * stride_w)[None, :], mask=mask, other=0.0).to(tl.float32)
    left = tl.where(left < _MASKED, _MASKED, left)
    if not IDENTITY:
        beyond = tl.minimum(column + 1, low_width - 1).to(tl.int64)
        right = tl.load(base + (beyond * stride_w)[None, :], mask=mask, other=0.0).to(tl.float32)
        right = tl.where(right < _MASKED, _MASKED, right)
        left = (1.0 - weight)[None, :] * left + weight[None, :] * right
    return tl.where((k < classes)[:, None], left, 2 * _MASKED)


@triton.jit
def _softmax(logits):
    """Softmax p over the classes (BK, BX), log p, entropy and sum_c p^2 (BX,)."""
    logits -= tl.max(logits, 0)[None, :]
    powers = tl.exp(logits)
    total = tl.sum(powers, 0)
    p = powers * (1.0 / total)[None, :]
    log_total = tl.log(total)
    entropy = log_total - tl.sum(p * logits, 0)
    return p, logits - log_total[None, :], entropy, tl.sum(p * p, 0)


@triton.jit(do_not_specialize=["classes", "low_height", "low_width", "height", "width", "grid", "strips"])
def sums_kernel(logits, stride_b, stride_k, stride_h, stride_w, sums,
                classes, low_height, low_width, height, width, grid, strips,
                ROWS: tl.constexpr, BK: tl.constexpr, BX: tl.constexpr,
                IDENTITY: tl.constexpr, ALIGN: tl.constexpr):  # fmt: skip
    """Grid (cdiv(W, BX), G * strips, B): column sums of entropy and of sum_c p^2, to sums (B, G * strips, 2, W)."""
    x = tl.program_id(0) * BX + tl.arange(0, BX)
    strip = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    k = tl.arange(0, BK)
    inside = x < width
    image = logits + b * stride_b
    column, weight = _source(x, low_width, width, ALIGN)
    entropies = tl.zeros((BX,), tl.float32)
    squares = tl.zeros((BX,), tl.float32)

    row = _patch_start(strip // strips, height, grid) + (strip % strips) * ROWS
    end = tl.minimum(row + ROWS, _patch_start(strip // strips + 1, height, grid))
    while row < end:
        node = _source(row, low_height, height, ALIGN)[0]
        top = _load_row(image, node, column, weight, k, classes, stride_k, stride_h, stride_w, inside, low_width,
                        IDENTITY)  # fmt: skip
        bottom = top
        if not IDENTITY:
            below = tl.minimum(node + 1, low_height - 1)
            bottom = _load_row(image, below, column, weight, k, classes, stride_k, stride_h, stride_w, inside,
                               low_width, IDENTITY)  # fmt: skip
        cell_end = tl.minimum(end, _first_pixel(node + 1, low_height, height, ALIGN))
        for y in range(row, cell_end):
            lower = _source(y, low_height, height, ALIGN)[1]
            softmax = _softmax((1.0 - lower) * top + lower * bottom)
            entropies += softmax[2]
            squares += softmax[3]
        row = cell_end

    out = sums + (b * tl.num_programs(1) + strip) * 2 * width + x
    tl.store(out, entropies, mask=inside)
    tl.store(out + width, squares, mask=inside)


@triton.jit(do_not_specialize=["batch", "height", "width", "grid", "strips"])
def rank_kernel(sums, entropy, rank, squares, batch, height, width, grid, strips, square_scale,
                BB: tl.constexpr, BX: tl.constexpr):  # fmt: skip
    """Grid (G * G,): a patch's mean entropy and rank (B, G * G) and its share of MaxSquare, squares (G * G,)."""
    patch = tl.program_id(0)
    band = patch // grid
    left = _patch_start(patch % grid, width, grid)
    right = _patch_start(patch % grid + 1, width, grid)
    area = (_patch_start(band + 1, height, grid) - _patch_start(band, height, grid)) * (right - left)
    b = tl.arange(0, BB)
    present = b < batch
    image = b.to(tl.int64) * (grid * strips * 2) * width
    entropies = tl.zeros((BB, BX), tl.float32)
    total = tl.zeros((BB, BX), tl.float32)
    for strip in range(band * strips, (band + 1) * strips):
        for start in range(left, right, BX):
            x = start + tl.arange(0, BX)
            mask = present[:, None] & (x < right)[None, :]
            source = sums + (image + strip * 2 * width)[:, None] + x[None, :]
            entropies += tl.load(source, mask=mask, other=0.0)
            total += tl.load(source + width, mask=mask, other=0.0)
    mean = tl.sum(entropies, 1) / area
    out = b.to(tl.int64) * grid * grid + patch
    tl.store(entropy + out, mean, mask=present)
    tl.store(squares + patch, tl.sum(tl.sum(total, 1), 0) * square_scale)

    key = tl.where(mean == mean, mean, float("inf"))  # an entropy is finite or NaN
    before = tl.zeros((BB,), tl.int64)
    for other in range(batch):
        theirs = tl.sum(tl.where(b == other, key, 0.0), 0)
        before += ((theirs < key) | ((theirs == key) & (other < b))).to(tl.int64)
    tl.store(rank + out, before, mask=present)


@triton.jit(do_not_specialize=["classes", "low_height", "low_width", "height", "width", "grid"])
def gradient_kernel(logits, stride_b, stride_k, stride_h, stride_w,
                    grad_entropy, stride_gb, stride_gp, grad_square,
                    out, out_b, out_k, out_h, out_w,
                    classes, low_height, low_width, height, width, grid, square_scale,
                    BK: tl.constexpr, BX: tl.constexpr, IDENTITY: tl.constexpr, ALIGN: tl.constexpr):  # fmt: skip
    """Grid (cdiv(W, BX), h, B): gradient of the columns of one cell row.

    With dH/dz = -p (log p + H) and d(sum_c p^2)/dz = 2 p (p - sum_c p^2). IDENTITY: that is the gradient of the
    logits, out (B, K, H, W). Else out is (B, K, 2 h, W), rows 2 i and 2 i + 1 cell row i's share in the node rows
    i and i + 1. Upstream gradients may be None.
    """
    x = tl.program_id(0) * BX + tl.arange(0, BX)
    node = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    k = tl.arange(0, BK)
    inside = x < width
    image = logits + b * stride_b
    column, weight = _source(x, low_width, width, ALIGN)
    top = _load_row(image, node, column, weight, k, classes, stride_k, stride_h, stride_w, inside, low_width,
                    IDENTITY)  # fmt: skip
    bottom = top
    if not IDENTITY:
        below = tl.minimum(node + 1, low_height - 1)
        bottom = _load_row(image, below, column, weight, k, classes, stride_k, stride_h, stride_w, inside, low_width,
                           IDENTITY)  # fmt: skip
    above_sum = tl.zeros((BK, BX), tl.float32)
    below_sum = tl.zeros((BK, BX), tl.float32)
    if grad_square is not None:
        square_upstream = tl.load(grad_square) * square_scale
    if grad_entropy is not None:
        patch_x = _patch_of(x, width, grid)
        patch_width = _patch_start(patch_x + 1, width, grid) - _patch_start(patch_x, width, grid)

    start = _first_pixel(node, low_height, height, ALIGN)
    for y in range(start, _first_pixel(node + 1, low_height, height, ALIGN)):
        lower = _source(y, low_height, height, ALIGN)[1]
        p, log_p, entropy, square = _softmax((1.0 - lower) * top + lower * bottom)
        slope = tl.zeros((BK, BX), tl.float32)
        if grad_square is not None:
            slope += square_upstream * (p - square[None, :])
        if grad_entropy is not None:
            patch_y = _patch_of(y, height, grid)
            area = patch_width * (_patch_start(patch_y + 1, height, grid) - _patch_start(patch_y, height, grid))
            upstream = grad_entropy + b * stride_gb + (patch_y * grid + patch_x).to(tl.int64) * stride_gp
            slope -= (tl.load(upstream, mask=inside, other=0.0) / area)[None, :] * (log_p + entropy[None, :])
        gradient = p * slope
        above_sum += (1.0 - lower) * gradient
        below_sum += lower * gradient

    mask = (k < classes)[:, None] & inside[None, :]
    target = out + b * out_b + (k.to(tl.int64) * out_k)[:, None] + (x.to(tl.int64) * out_w)[None, :]
    if IDENTITY:
        tl.store(target + node.to(tl.int64) * out_h, above_sum.to(out.dtype.element_ty), mask=mask)
    else:
        tl.store(target + 2 * node.to(tl.int64) * out_h, above_sum, mask=mask)
        tl.store(target + (2 * node.to(tl.int64) + 1) * out_h, below_sum, mask=mask)


@triton.jit(do_not_specialize=["classes", "low_width", "width"])
def gather_kernel(partial, partial_b, partial_k, out, out_b, out_k, out_h, out_w, classes, low_width, width,
                  BK: tl.constexpr, BX: tl.constexpr, ALIGN: tl.constexpr):  # fmt: skip
    """Grid (cdiv(w, BX), h, B): gradient of a row of nodes, from the cell rows below and above and their columns."""
    x = tl.program_id(0) * BX + tl.arange(0, BX)
    y = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    k = tl.arange(0, BK)
    inside = x < low_width
    start = tl.where(inside, _first_pixel(x - 1, low_width, width, ALIGN), 0)
    end = tl.where(inside, _first_pixel(x + 1, low_width, width, ALIGN), 0)
    source = partial + b * partial_b + (k.to(tl.int64) * partial_k)[:, None] + 2 * y.to(tl.int64) * width
    total = tl.zeros((BK, BX), tl.float32)
    for step in range(tl.max(end - start, 0)):
        pixel = start + step
        node, weight = _source(pixel, low_width, width, ALIGN)
        mask = (k < classes)[:, None] & (pixel < end)[None, :]
        gradient = tl.load(source + pixel[None, :], mask=mask, other=0.0)
        gradient += tl.load(source - width + pixel[None, :], mask=mask & (y > 0), other=0.0)
        total += tl.where(node == x, 1.0 - weight, weight)[None, :] * gradient
    target = out + b * out_b + (k.to(tl.int64) * out_k)[:, None] + y.to(tl.int64) * out_h
    tl.store(target + (x.to(tl.int64) * out_w)[None, :], total.to(out.dtype.element_ty),
             mask=(k < classes)[:, None] & inside[None, :])  # fmt: skip
