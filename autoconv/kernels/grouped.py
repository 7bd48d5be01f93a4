"""`grouped`: the group on a grid axis of its own; small groups packed block-diagonally.

A tile covers PACK neighbouring groups: its rows are their output channels and its reduction runs over all
their inputs, with zeros in the weight where row and input are of different groups. So groups of fewer than 16
channels still fill a tensor-core tile, at PACK times the products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import triton
import triton.language as tl

from autoconv.kernels.implicit_gemm import ImplicitGemm, Meta, View
from autoconv.kernels.sizes import cdiv, powers_of_two
from autoconv.kernels.space import LEAST_DOT
from autoconv.kernels.tiles import first_positions, store_tile, tile_of, within
from autoconv.kernels.work import Axis
from autoconv.problem import Problem


@triton.jit
def grouped_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    L_units,
    L_out_units,
    x_batch_units,
    x_channel_units,
    x_step,
    GROUPS: tl.constexpr,
    CIN_G: tl.constexpr,
    COUT_G: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    PADDED: tl.constexpr,
    DILATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    X_ALIGN: tl.constexpr,
    Y_ALIGN: tl.constexpr,
    INDEX_64: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_R: tl.constexpr,
    PACK: tl.constexpr,
):
    OF_GROUP: tl.constexpr = CIN_G * K
    REDUCTION: tl.constexpr = PACK * OF_GROUP
    L = L_units * X_ALIGN
    L_out = L_out_units * Y_ALIGN
    x_channel = x_channel_units * X_ALIGN
    if INDEX_64:
        x_channel = x_channel.to(tl.int64)
    row, col, n = tile_of(PACK * COUT_G, L_out, BLOCK_CO, BLOCK_L, INDEX_64)
    first_group = tl.program_id(1) * PACK
    channel_out = first_group * COUT_G + row
    row_mask = (row < PACK * COUT_G) & (channel_out < GROUPS * COUT_G)
    first = first_positions(col, STRIDE, PAD_LEFT)
    x_sample = x_ptr + n * x_batch_units * X_ALIGN + first_group * CIN_G * x_channel
    # The rows of one group lie together, so a row's group is found by dividing; r's group likewise.
    w_rows = w_ptr + channel_out * OF_GROUP - (row // COUT_G) * OF_GROUP

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for r0 in range(0, REDUCTION, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)
        r_mask = (r < REDUCTION) & (first_group * CIN_G + r // K < GROUPS * CIN_G)
        position = first[None, :] + ((r % K) * DILATION)[:, None]
        x_mask = within(position, L, PADDED) & r_mask[:, None]
        w_mask = row_mask[:, None] & r_mask[None, :]
        if PACK > 1:
            w_mask = w_mask & ((row // COUT_G)[:, None] == (r // OF_GROUP)[None, :])
        x = tl.load(x_sample + ((r // K) * x_channel)[:, None] + position * x_step, mask=x_mask, other=0.0)
        w = tl.load(w_rows[:, None] + r[None, :], mask=w_mask, other=0.0)
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    store_tile(
        acc, b_ptr, y_ptr, n, channel_out, col, row_mask, col < L_out, L_out, GROUPS * COUT_G,
        HAS_BIAS, ACTIVATION, INDEX_64,
    )  # fmt: skip


class Grouped(ImplicitGemm):
    """See the module's docstring."""

    name = "grouped"
    jit = grouped_kernel
    tiles = ("BLOCK_CO", "BLOCK_L", "BLOCK_R", "PACK")
    raster = (("co", "l", "n"), ("group",))
    most_rows = 128
    w_in_rows = False
    address_instructions = 4.0  # as `dense`, with the group's masks

    def refusal(self, problem: Problem) -> str | None:
        return "it runs groups > 1, not groups=1" if problem.groups == 1 else super().refusal(problem)

    def choices(self, problem: Problem) -> Iterator[dict[str, int]]:
        """Yield how many groups a tile may hold: one, and the powers of two that fill up to 64 rows."""
        small = problem.Cout_per_group < LEAST_DOT
        most = max(1, min(problem.groups, 64 // problem.Cout_per_group)) if small else 1
        yield from ({"PACK": pack} for pack in powers_of_two(1, most))

    def view(self, problem: Problem, meta: Meta) -> View:
        pack = meta["PACK"]
        return replace(
            super().view(problem, meta),
            rows=pack * problem.Cout_per_group,
            channels=pack * problem.Cin_per_group,
            groups=cdiv(problem.groups, pack),
        )

    def w_rows(self, problem: Problem, meta: Meta) -> Axis:
        # Of a tile's reduction a row reads the part of its own group.
        of_row, rows = problem.reduction, problem.Cout_per_group
        return Axis(meta["BLOCK_CO"], rows, of_row, (rows - 1) * of_row)


KERNEL = Grouped()
