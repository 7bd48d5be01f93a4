"""Kernels whose columns run on from one sample into the next: short samples fill tiles as long ones do.

A column's sample and position come of one division before the main loop, where its pointer is made; a step
adds the same offsets to all of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import triton
import triton.language as tl

from autoconv.kernels.bindings import Scalar
from autoconv.kernels.implicit_gemm import ImplicitGemm, Meta, View
from autoconv.kernels.sizes import alignment, columns_need_int64
from autoconv.kernels.tiles import side_by_side, with_bias
from autoconv.problem import Problem


@triton.jit
def tile_across(
    ROWS,
    N,
    L_out,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    Y_ALIGN: tl.constexpr,
    INDEX_64: tl.constexpr,
):
    """Return the rows of this block, then what `columns_across` says; tiles of rows come fastest."""
    tile = tl.program_id(0)
    if INDEX_64:
        tile = tile.to(tl.int64)
    tiles_co = tl.cdiv(ROWS, BLOCK_CO)
    row = tile % tiles_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    sample, col, col_mask = columns_across(tile // tiles_co, N, L_out, BLOCK_L, Y_ALIGN)
    return row, sample, col, col_mask


@triton.jit
def columns_across(tile_l, N, L_out, BLOCK_L: tl.constexpr, Y_ALIGN: tl.constexpr):
    """Return the sample of each column, its position in the sample, and whether there is such a column.

    Columns past the last are others of the last sample once more. So they can be read, and need no mask of
    their own in the main loop; they must not be stored.
    """
    start = tile_l * BLOCK_L
    n = start // L_out
    along = start - n * L_out + tl.arange(0, BLOCK_L)
    sample = n + tl.minimum(along // L_out, N - 1 - n)
    # Groups of Y_ALIGN columns are neighbours, for no sample ends inside one.
    col = tl.max_contiguous(along % L_out, Y_ALIGN)
    return sample.to(tl.int64), col, along < (N - n) * L_out


@triton.jit
def inside_sample(position, L, PADDED: tl.constexpr, PADDED_RIGHT: tl.constexpr):
    """Return where input positions of whole windows lie inside the sample.

    Without padding that is everywhere, and Triton drops a mask that is true everywhere.
    """
    inside = tl.full(position.shape, True, tl.int1)
    if PADDED_RIGHT:
        inside = position < L
    if PADDED:
        inside = inside & (position >= 0)
    return inside


@triton.jit
def store_across(
    acc,
    b_ptr,
    y_ptr,
    row,
    sample,
    col,
    row_mask,
    col_mask,
    L_out,
    COUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    Y_ALIGN: tl.constexpr,
):
    """Write acc, with bias and activation, to channels `row` and to each column, in its sample of y."""
    acc = with_bias(acc, b_ptr, row, row_mask, HAS_BIAS, ACTIVATION)
    offset = sample * COUT * L_out + col
    if Y_ALIGN == 1:
        offset = side_by_side(offset)
    y_columns = y_ptr + offset
    mask = row_mask[:, None] & col_mask[None, :]
    tl.store(y_columns[None, :] + row[:, None] * L_out, acc.to(y_ptr.dtype.element_ty), mask=mask)


def scattered(problem: Problem) -> bool:
    """Return whether Triton knows no two columns to be neighbours in x, which runs along L nevertheless.

    So it is at any stride above 1, and where no two outputs of a sample are sure to be a pair. It is said in
    one comparison, for an emitted file to make at any size.
    """
    return problem.layout == "ncl" and alignment(problem.L_out) <= 1 + 16 * (problem.stride - 1)


class AcrossSamples(ImplicitGemm):
    """A kernel whose columns are those of all samples, one after the other."""

    raster: ClassVar[tuple[tuple[str, ...], ...]] = (("co", "l"),)

    def view(self, problem: Problem, meta: Meta) -> View:
        return replace(super().view(problem, meta), columns=problem.N * problem.L_out, samples=problem.N)

    def constants(self, problem: Problem) -> dict[str, Scalar]:
        return {"INDEX_64": columns_need_int64(problem), "SCATTERED": scattered(problem)}

    def vectors(self, problem: Problem) -> tuple[int, int, int]:
        x, w, y = super().vectors(problem)
        return min(x, alignment(problem.L_out) * problem.dtype_bytes), w, y  # none crosses a sample's end
