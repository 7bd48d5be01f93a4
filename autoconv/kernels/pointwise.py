"""`pointwise`: K = 1, a batched GEMM of the weight with each sample, with the widest loads of both.

Columns run on from one sample into the next. Tiles run in groups of GROUP_L windows of them by all tiles of
Cout, so that what runs together shares both operands in the L2; the last group is clamped to the windows
that are left.

X_BYTES is how much of x one copy may move. 16 is best but for one case: Hopper's wgmma reads a TF32 operand
from shared memory along the reduction, so x is transposed on its way there, 4 bytes at a time whatever is
known of its alignment; and where 16 bytes are known to be aligned, a thread takes them in four copies, each
with lanes 16 bytes apart. On an H200 that takes twice the time of copies with neighbouring lanes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import triton
import triton.language as tl

from autoconv.device import Device
from autoconv.kernels.across import AcrossSamples, columns_across, inside_sample, store_across
from autoconv.kernels.implicit_gemm import Meta
from autoconv.kernels.tiles import side_by_side, unaligned
from autoconv.kernels.work import Access
from autoconv.problem import Problem

GROUPS_OF_L = (1, 8)


@triton.jit
def pointwise_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    N,
    L_units,
    L_out_units,
    x_batch_units,
    x_channel_units,
    x_step,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    PADDED: tl.constexpr,
    PADDED_RIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    X_ALIGN: tl.constexpr,
    Y_ALIGN: tl.constexpr,
    INDEX_64: tl.constexpr,
    SCATTERED: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_R: tl.constexpr,
    GROUP_L: tl.constexpr,
    X_BYTES: tl.constexpr,
):
    L = L_units * X_ALIGN
    L_out = L_out_units * Y_ALIGN
    x_channel = x_channel_units * X_ALIGN
    tiles_co = tl.cdiv(COUT, BLOCK_CO)
    tile = tl.program_id(0)
    columns = N * L_out
    if INDEX_64:
        tile = tile.to(tl.int64)
        columns = tl.cast(N, tl.int64) * L_out
    tiles_l = tl.cdiv(columns, BLOCK_L)
    group = tile // (GROUP_L * tiles_co)
    in_group = tl.minimum(tiles_l - group * GROUP_L, GROUP_L)
    tile_l = group * GROUP_L + (tile % (GROUP_L * tiles_co)) % in_group
    tile_co = (tile % (GROUP_L * tiles_co)) // in_group

    row = tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    row_mask = row < COUT
    sample, col, col_mask = columns_across(tile_l, N, L_out, BLOCK_L, Y_ALIGN)
    position = col * STRIDE - PAD_LEFT
    if X_BYTES == 4:
        position = unaligned(position)
    inside = inside_sample(position, L, PADDED, PADDED_RIGHT)
    x_offset = sample * x_batch_units * X_ALIGN + position * x_step
    if SCATTERED:
        x_offset = side_by_side(x_offset)
    x_columns = x_ptr + x_offset
    w_rows = w_ptr + row * CIN

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for r0 in range(0, CIN, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)
        channel = r.to(tl.int64) if INDEX_64 else r
        x_mask = inside[None, :]
        w_mask = row_mask[:, None]
        if CIN % BLOCK_R != 0:
            x_mask = x_mask & (r < CIN)[:, None]
            w_mask = w_mask & (r < CIN)[None, :]
        x = tl.load(x_columns[None, :] + (channel * x_channel)[:, None], mask=x_mask, other=0.0)
        w = tl.load(w_rows[:, None] + r[None, :], mask=w_mask, other=0.0)
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    store_across(
        acc, b_ptr, y_ptr, row, sample, col, row_mask, col_mask, L_out, COUT, HAS_BIAS, ACTIVATION, Y_ALIGN
    )


class Pointwise(AcrossSamples):
    """See the module's docstring."""

    name = "pointwise"
    jit = pointwise_kernel
    tiles = ("BLOCK_CO", "BLOCK_L", "BLOCK_R", "GROUP_L", "X_BYTES")
    address_instructions = 2.0  # one add each; nothing depends on a tap

    def refusal(self, problem: Problem) -> str | None:
        return super().refusal(problem) if problem.K == 1 else f"it runs K=1, not K={problem.K}"

    def choices(self, problem: Problem) -> Iterator[dict[str, int]]:
        widths = (16, 4) if problem.dtype == "float32" and problem.precision != "ieee" else (16,)
        yield from ({"GROUP_L": size, "X_BYTES": width} for size in GROUPS_OF_L for width in widths)

    def worthwhile(self, problem: Problem, meta: Meta, device: Device) -> bool:  # noqa: ARG002
        return meta["GROUP_L"] == 1 or meta["BLOCK_CO"] < problem.Cout  # else there is nothing to group

    def read_x(self, problem: Problem, meta: Meta) -> Access:
        access = super().read_x(problem, meta)
        return replace(access, vector_bytes=min(access.vector_bytes, meta["X_BYTES"]))

    def launch_axes(self, problem: Problem, meta: Meta) -> tuple[tuple[str, float], ...]:
        (_, rows), (_, columns) = super().launch_axes(problem, meta)
        together = min(meta["GROUP_L"], columns)
        return ("l", together), ("co", rows), ("band", columns / together)


KERNEL = Pointwise()
