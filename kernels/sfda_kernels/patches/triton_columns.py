"""Patch entropy in Triton: the bilinear upsampling inside, a thread a column of pixels, no atomics.

B images, K classes, logits of (h, w) nodes, H x W pixels, G x G patches. The pixels between two neighboring rows
of nodes are a cell, -1 before the first node to h - 1 after the last. A program holds up to BR rows of one cell and
BX columns and walks over the classes, so that sums over classes need no other thread and K no padding; each class is
two rows of nodes, loaded and interpolated across once for all rows of the tile.

Forward: `sums_kernel` sums entropy and sum_c p^2 down the columns of a tile within one row of patches; `rank_kernel`
adds the sums of a patch in a fixed order. Backward: `gradient_kernel` sums the gradient of the nodes above and below
down the columns of a tile; `gather_kernel` adds the columns of each node in a fixed order. Exactly one program writes
each element, so that equal inputs give equal bits.

Importing this module imports triton, which reads TRITON_INTERPRET here, where the kernels are defined.
"""

# mypy: disallow-untyped-defs=False
import triton
import triton.language as tl

from sfda_kernels.patches.reference import MASKED

_MASKED = tl.constexpr(MASKED)


@triton.jit
def _source(pixel, low, high):
    """Node before a pixel, -1 to low - 1, and the weight of the next one; exact while low * high < 2**30."""
    unit = 2 * high
    scaled = (2 * pixel + 1) * low - high
    node = (scaled + unit) // unit - 1
    weight = (scaled - node * unit).to(tl.float32) / unit
    return node, tl.where(node < 0, 1.0, tl.where(node < low - 1, weight, 0.0))


@triton.jit
def _first_pixel(node, low, high):
    """First pixel whose `_source` is this node or a later one; `high` where there is none."""
    unit = 2 * low
    scaled = (2 * node + 1) * high - low
    pixel = (tl.maximum(scaled, 0) + unit - 1) // unit
    return tl.where(node < low, tl.minimum(pixel, high), high)


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
def _offsets(node, y, x, low_height, low_width, width, stride_h, stride_w,
             IDENTITY: tl.constexpr):  # fmt: skip
    """Where the tile's logits of a class lie: row above and below (a scalar), column left and right, its weight."""
    if IDENTITY:
        above = y.to(tl.int64)[:, None] * stride_h
        left = x.to(tl.int64)[None, :] * stride_w
        return above, above, left, left, tl.zeros_like(x).to(tl.float32)
    else:  # noqa: RET505 - triton compiles what follows a return
        column, across = _source(x, low_width, width)
        above = tl.minimum(tl.maximum(node, 0), low_height - 1).to(tl.int64) * stride_h
        below = tl.minimum(node + 1, low_height - 1).to(tl.int64) * stride_h
        left = tl.maximum(column, 0).to(tl.int64) * stride_w
        right = tl.minimum(column + 1, low_width - 1).to(tl.int64) * stride_w
        return above, below, left, right, across


@triton.jit
def _load(pointer, mask):
    """fp32, -inf as in the reference; NaN stays."""
    value = tl.load(pointer, mask=mask, other=0.0).to(tl.float32)
    return tl.where(value < _MASKED, _MASKED, value)


@triton.jit
def _logits(source, above, below, left, right, across, down, rows, columns, IDENTITY: tl.constexpr):
    """One class at the pixels of the tile, (BR, BX) fp32."""
    if IDENTITY:
        return _load(source + above + left, rows[:, None] & columns[None, :])
    else:  # noqa: RET505
        top = (1.0 - across) * _load(source + above + left, columns)
        top += across * _load(source + above + right, columns)
        bottom = (1.0 - across) * _load(source + below + left, columns)
        bottom += across * _load(source + below + right, columns)
        return (1.0 - down)[:, None] * top[None, :] + down[:, None] * bottom[None, :]


@triton.jit
def _softmax(image, classes, stride_k, above, below, left, right, across, down, rows, columns,
             BR: tl.constexpr, BX: tl.constexpr, IDENTITY: tl.constexpr):  # fmt: skip
    """Over the classes, with e = exp(z - maximum): maximum, sum e, entropy, sum p^2, each (BR, BX)."""
    maximum = tl.full((BR, BX), float("-inf"), tl.float32)
    source = image
    for _ in range(classes):
        z = _logits(source, above, below, left, right, across, down, rows, columns, IDENTITY)
        maximum = tl.maximum(maximum, z)
        source += stride_k
    total = tl.zeros((BR, BX), tl.float32)
    moment = tl.zeros((BR, BX), tl.float32)
    squares = tl.zeros((BR, BX), tl.float32)
    source = image
    for _ in range(classes):
        z = _logits(source, above, below, left, right, across, down, rows, columns, IDENTITY) - maximum
        power = tl.exp(z)
        total += power
        moment += power * z
        squares += power * power
        source += stride_k
    return maximum, total, tl.log(total) - moment / total, squares / (total * total)


@triton.jit(do_not_specialize=["classes", "low_height", "low_width", "height", "width", "grid", "cells", "parts"])
def sums_kernel(logits, stride_b, stride_k, stride_h, stride_w, sums,
                classes, low_height, low_width, height, width, grid, cells, parts,
                BR: tl.constexpr, BX: tl.constexpr, IDENTITY: tl.constexpr):  # fmt: skip
    """Grid (cdiv(W, BX), G * cells * parts, B): column sums of entropy and of sum_c p^2 over a tile.

    To sums (B, G * cells * parts, 2, W), for each row of patches its cells, each in parts of BR rows; some are empty.
    """
    x = tl.program_id(0) * BX + tl.arange(0, BX)
    strip = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    band = strip // (cells * parts)
    start = _patch_start(band, height, grid)
    end = _patch_start(band + 1, height, grid)
    node = _source(start, low_height, height)[0] + strip // parts % cells
    if not IDENTITY:
        start = tl.maximum(start, _first_pixel(node, low_height, height))
        end = tl.minimum(end, _first_pixel(node + 1, low_height, height))
    start += strip % parts * BR
    y = start + tl.arange(0, BR)
    rows = y < end
    columns = x < width
    down = _source(y, low_height, height)[1]
    above, below, left, right, across = _offsets(node, y, x, low_height, low_width, width, stride_h, stride_w, IDENTITY)
    present = tl.where(start < end, classes, 0)
    statistics = _softmax(logits + b * stride_b, present, stride_k, above, below, left, right, across, down,
                          rows, columns, BR, BX, IDENTITY)  # fmt: skip
    out = sums + (b * tl.num_programs(1) + strip) * 2 * width + x
    tl.store(out, tl.sum(tl.where(rows[:, None], statistics[2], 0.0), 0), mask=columns)
    tl.store(out + width, tl.sum(tl.where(rows[:, None], statistics[3], 0.0), 0), mask=columns)


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


@triton.jit(do_not_specialize=["classes", "low_height", "low_width", "height", "width", "grid", "parts"])
def gradient_kernel(logits, stride_b, stride_k, stride_h, stride_w,
                    grad_entropy, stride_gb, stride_gp, grad_square, out, out_b, out_k, out_h, out_w,
                    classes, low_height, low_width, height, width, grid, parts, square_scale,
                    BR: tl.constexpr, BX: tl.constexpr, IDENTITY: tl.constexpr):  # fmt: skip
    """Grid (cdiv(W, BX), cells * parts, B): gradient of the pixels of a tile.

    With dH/dz = -p (log p + H) and d(sum_c p^2)/dz = 2 p (p - sum_c p^2). IDENTITY, one cell: that is the gradient
    of the logits, out (B, K, H, W). Else cells -1 to h - 1, and rows 2 i and 2 i + 1 of out (B, K, 2 (h + 1) parts, W)
    are the shares of tile i in the node rows above and below it. Upstream gradients may be None.
    """
    x = tl.program_id(0) * BX + tl.arange(0, BX)
    strip = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    node = strip // parts - 1
    start = strip * BR
    end = height
    if not IDENTITY:
        start = _first_pixel(node, low_height, height) + strip % parts * BR
        end = _first_pixel(node + 1, low_height, height)
    y = start + tl.arange(0, BR)
    rows = y < end
    columns = x < width
    mask = rows[:, None] & columns[None, :]
    image = logits + b * stride_b
    down = _source(y, low_height, height)[1]
    above, below, left, right, across = _offsets(node, y, x, low_height, low_width, width, stride_h, stride_w, IDENTITY)
    present = tl.where(start < end, classes, 0)
    maximum, total, entropy, square = _softmax(image, present, stride_k, above, below, left, right, across, down,
                                               rows, columns, BR, BX, IDENTITY)  # fmt: skip
    log_total = tl.log(total)
    if grad_square is not None:
        square_upstream = tl.load(grad_square) * square_scale
    if grad_entropy is not None:
        bands = _patch_of(y, height, grid)
        patch = _patch_of(x, width, grid)
        patch_width = _patch_start(patch + 1, width, grid) - _patch_start(patch, width, grid)
        upstream = tl.zeros((BR, BX), tl.float32)
        last = _patch_of(tl.minimum(start + BR, end) - 1, height, grid)
        for band in range(_patch_of(start, height, grid), last + 1):  # one or two, unless patches are low
            source = grad_entropy + b * stride_gb + (band * grid + patch).to(tl.int64) * stride_gp
            area = patch_width * (_patch_start(band + 1, height, grid) - _patch_start(band, height, grid))
            share = tl.load(source, mask=columns, other=0.0) / area
            upstream = tl.where((bands == band)[:, None], share[None, :], upstream)

    target = out + b * out_b + x.to(tl.int64) * out_w + 2 * strip.to(tl.int64) * out_h
    if IDENTITY:
        target = out + b * out_b + y.to(tl.int64)[:, None] * out_h + x.to(tl.int64)[None, :] * out_w
    for _ in range(classes):
        z = _logits(image, above, below, left, right, across, down, rows, columns, IDENTITY) - maximum
        p = tl.exp(z) / total
        slope = tl.zeros((BR, BX), tl.float32)
        if grad_square is not None:
            slope += square_upstream * (p - square)
        if grad_entropy is not None:
            slope -= upstream * (z - log_total + entropy)
        gradient = tl.where(mask, p * slope, 0.0)
        if IDENTITY:
            tl.store(target, gradient.to(out.dtype.element_ty), mask=mask)
        else:
            tl.store(target, tl.sum((1.0 - down)[:, None] * gradient, 0), mask=columns)
            tl.store(target + out_h, tl.sum(down[:, None] * gradient, 0), mask=columns)
        image += stride_k
        target += out_k


@triton.jit(do_not_specialize=["classes", "low_height", "low_width", "width", "parts"])
def gather_kernel(partial, partial_b, partial_k, partial_h, out, out_b, out_k, out_h, out_w,
                  classes, low_height, low_width, width, parts, BX: tl.constexpr):  # fmt: skip
    """Grid (B * K, h, cdiv(w, BX)): gradient of a row of nodes, from the cells above and below it, column by column."""
    b = (tl.program_id(0) // classes).to(tl.int64)
    k = (tl.program_id(0) % classes).to(tl.int64)
    y = tl.program_id(1).to(tl.int64)
    x = tl.program_id(2) * BX + tl.arange(0, BX)
    inside = x < low_width
    start = tl.where(inside, _first_pixel(x - 1, low_width, width), 0)
    end = tl.where(inside, _first_pixel(x + 1, low_width, width), 0)
    total = tl.zeros((BX,), tl.float32)
    for part in range(parts):
        cell_above = partial + b * partial_b + k * partial_k + (2 * (y * parts + part) + 1) * partial_h
        cell_below = cell_above + (2 * parts - 1) * partial_h
        for step in range(tl.max(end - start, 0)):
            pixel = start + step
            node, weight = _source(pixel, low_width, width)
            gradient = tl.load(cell_above + pixel, mask=pixel < end, other=0.0)
            gradient += tl.load(cell_below + pixel, mask=pixel < end, other=0.0)
            total += tl.where(node == x, 1.0 - weight, weight) * gradient
    target = out + b * out_b + k * out_k + y * out_h + x.to(tl.int64) * out_w
    tl.store(target, total.to(out.dtype.element_ty), mask=inside)
