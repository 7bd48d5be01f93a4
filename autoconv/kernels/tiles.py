"""What the jit functions share: decoding of tiles, the bounds of x, and the end with bias and activation."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def activated(value, ACTIVATION: tl.constexpr):
    """Return the activation of float32 values, as torch.nn.functional defines it; NaN stays NaN."""
    if ACTIVATION == "relu":
        value = tl.where(value < 0, 0.0, value)
    elif ACTIVATION == "leaky_relu":
        value = tl.where(value < 0, value * 0.01, value)
    elif ACTIVATION == "silu":
        value = value * tl.sigmoid(value)
    elif ACTIVATION == "gelu":
        value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    elif ACTIVATION == "tanh":
        # 2 sigmoid(2 v) - 1 cancels near 0; there the series, up to v**7, is exact to float32.
        square = value * value
        series = value * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
        value = tl.where(tl.abs(value) < 0.1, series, 2 * tl.sigmoid(2 * value) - 1)
    return value


@triton.jit
def with_bias(acc, b_ptr, row, row_mask, HAS_BIAS: tl.constexpr, ACTIVATION: tl.constexpr):
    """Return acc (rows, columns) with the bias of its rows added, activated."""
    if HAS_BIAS:
        acc += tl.load(b_ptr + row, mask=row_mask, other=0.0).to(tl.float32)[:, None]
    return activated(acc, ACTIVATION)


@triton.jit
def tile_of(
    ROWS,
    columns,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    INDEX_64: tl.constexpr,
):
    """Return the (rows, columns, sample) of this block; tiles of rows come fastest.

    So the blocks that share a window of x run side by side. One axis: samples, columns and rows are
    independent, and only axis x reaches past 65535, which both L / BLOCK_L and N can pass.
    """
    tiles_co = tl.cdiv(ROWS, BLOCK_CO)
    tiles_l = tl.cdiv(columns, BLOCK_L)
    tile = tl.program_id(0)
    tile_co = tile % tiles_co
    tile_l = (tile // tiles_co) % tiles_l
    n = (tile // tiles_co // tiles_l).to(tl.int64)
    if INDEX_64:
        tile_l = tile_l.to(tl.int64)
    return tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO), tile_l * BLOCK_L + tl.arange(0, BLOCK_L), n


@triton.jit
def unaligned(offset):
    """Return offsets of whose alignment Triton then knows nothing: plus a zero that it does not see."""
    return offset + tl.minimum(tl.program_id(0), 0)


@triton.jit
def side_by_side(offset):
    """Return the offsets of columns, for loads and stores whose lanes are to lie along the columns.

    Before 3.7 Triton lays lanes along rows where it knows no two columns to be neighbours in memory, so that
    a warp moves an element of each of 32 rows. Of these offsets it is told that they are neighbours in pairs.
    That need not be true, and does no harm: where no alignment is known, a thread moves one element at a
    time. No such thing can be said of what is equal in pairs, for Triton computes that once a pair.
    """
    return tl.max_contiguous(offset + tl.minimum(tl.program_id(0), 0), 2)  # a hint does not outlive a call


@triton.jit
def first_positions(col, STRIDE: tl.constexpr, PAD_LEFT: tl.constexpr):
    """Return the input position of each column's first tap."""
    first = col * STRIDE - PAD_LEFT
    if STRIDE > 1:
        first = side_by_side(first)
    return first


@triton.jit
def within(position, L, PADDED: tl.constexpr):
    """Return where input positions lie inside the sample; without padding on the left none is negative."""
    inside = position < L
    if PADDED:
        inside = inside & (position >= 0)
    return inside


@triton.jit
def store_tile(
    acc,
    b_ptr,
    y_ptr,
    n,
    row,
    col,
    row_mask,
    col_mask,
    L_out,
    COUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    INDEX_64: tl.constexpr,
):
    """Write acc, with bias and activation, to channels `row` and positions `col` of sample n of y."""
    acc = with_bias(acc, b_ptr, row, row_mask, HAS_BIAS, ACTIVATION)
    if INDEX_64:
        row = row.to(tl.int64)
        L_out = L_out.to(tl.int64)
    y_sample = y_ptr + n * COUT * L_out
    mask = row_mask[:, None] & col_mask[None, :]
    tl.store(y_sample + row[:, None] * L_out + col[None, :], acc.to(y_ptr.dtype.element_ty), mask=mask)
