"""`transposed_rows`: a transposed convolution of dilation 1 as one GEMM with a row for each (channel, phase).

With dilation 1, output o = phase + stride * m - pad_left takes tap phase + stride * t from input m - t,
whatever the phase: one tile of x serves all phases, so x is read once. The phases of a channel are
neighbouring rows of the accumulator, and interleaving them before the store makes runs along L. Columns run
on from one sample into the next, as vocoders upsample many short ones.

The reduction runs over (channel, t) with t fastest, so that the reads of t serve one another in the L1; where
channels are side by side in memory it runs over (t, channel), and x is read along them by 16 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import triton
import triton.language as tl

from autoconv.device import Device
from autoconv.kernels.across import columns_across
from autoconv.kernels.bindings import Scalar
from autoconv.kernels.implicit_gemm import Meta, View
from autoconv.kernels.sizes import (
    alignment,
    cdiv,
    columns_need_int64,
    next_power_of_two,
    powers_of_two,
)
from autoconv.kernels.space import LEAST_DOT, depths, tile_sizes
from autoconv.kernels.tiles import side_by_side, with_bias
from autoconv.kernels.transposed import Transposed
from autoconv.kernels.work import Axis
from autoconv.problem import Problem

MOST_ROWS = 256  # of the accumulator: channels x phases


@triton.jit
def transposed_rows_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    N,
    L,
    L_out_units,
    x_batch,
    x_channel,
    x_step,
    CIN_G: tl.constexpr,
    COUT_G: tl.constexpr,
    COUT: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PHASES: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    CHANNEL_FASTEST: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    Y_ALIGN: tl.constexpr,
    INDEX_64: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    TAPS: tl.constexpr = (K + STRIDE - 1) // STRIDE
    CHUNKS: tl.constexpr = (CIN_G + BLOCK_R - 1) // BLOCK_R  # of one tap
    REDUCTION: tl.constexpr = TAPS * CHUNKS * BLOCK_R if CHANNEL_FASTEST else CIN_G * TAPS
    FULL: tl.constexpr = (CIN_G if CHANNEL_FASTEST else REDUCTION) % BLOCK_R == 0
    ROWS: tl.constexpr = BLOCK_CO * PHASES
    BEFORE: tl.constexpr = PAD_LEFT % STRIDE  # outputs of the first column that lie before 0
    L_out = L_out_units * Y_ALIGN
    group = tl.program_id(1)
    tiles_co = tl.cdiv(COUT_G, BLOCK_CO)
    tile_co = tl.program_id(0) % tiles_co
    tile_l = tl.program_id(0) // tiles_co
    if INDEX_64:
        tile_l = tile_l.to(tl.int64)
        x_channel = tl.cast(x_channel, tl.int64)  # an argument of 1 is a constant, which has no `to`
        L_out = tl.cast(L_out, tl.int64)
    sample, col, col_mask = columns_across(tile_l, N, tl.cdiv(L_out + BEFORE, STRIDE), BLOCK_L, 1)
    row = tl.arange(0, ROWS)
    phase = row % PHASES
    row_channel = tile_co * BLOCK_CO + row // PHASES
    row_mask = (row_channel < COUT_G) & (phase < STRIDE)
    newest = col + PAD_LEFT // STRIDE  # input position of the first tap
    L = tl.where(col_mask, L, 0)
    x_offset = sample * x_batch + newest * x_step
    if not CHANNEL_FASTEST:
        x_offset = side_by_side(x_offset)
    x_columns = x_ptr + x_offset + group * CIN_G * x_channel
    w_rows = w_ptr + (group * CIN_G * COUT_G + row_channel) * K + phase

    acc = tl.zeros((ROWS, BLOCK_L), dtype=tl.float32)
    for r0 in range(0, REDUCTION, BLOCK_R):
        r = tl.arange(0, BLOCK_R)
        if CHANNEL_FASTEST:
            turn = r0 // (CHUNKS * BLOCK_R) + tl.zeros_like(r)
            channel = r0 // BLOCK_R % CHUNKS * BLOCK_R + r
        else:
            turn = (r0 + r) % TAPS
            channel = (r0 + r) // TAPS
        position = newest[None, :] - turn[:, None]
        x_mask = (position >= 0) & (position < L[None, :])
        w_mask = row_mask[:, None]
        if not FULL:
            x_mask = x_mask & (channel < CIN_G)[:, None]
            w_mask = w_mask & (channel < CIN_G)[None, :]
        if K % STRIDE != 0:
            w_mask = w_mask & (phase[:, None] + (turn * STRIDE)[None, :] < K)
        x = tl.load(
            x_columns[None, :] + (channel * x_channel - turn * x_step)[:, None], mask=x_mask, other=0.0
        )
        w = tl.load(
            w_rows[:, None] + (channel * (COUT_G * K) + turn * STRIDE)[None, :], mask=w_mask, other=0.0
        )
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    acc = with_bias(acc, b_ptr, group * COUT_G + row_channel, row_mask, HAS_BIAS, ACTIVATION)
    interleaved = tl.permute(tl.reshape(acc, (BLOCK_CO, PHASES, BLOCK_L)), (0, 2, 1))
    channel_out = tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    out = (col * STRIDE - BEFORE)[:, None] + tl.arange(0, PHASES)[None, :]
    out_mask = col_mask[:, None] & (tl.arange(0, PHASES) < STRIDE)[None, :] & (out >= 0) & (out < L_out)
    y_offset = ((sample * COUT + group * COUT_G) * L_out)[:, None] + out
    if PHASES > 2:
        # As `side_by_side` says; a thread moves phases of one column at a time, which are neighbours.
        y_offset = tl.max_contiguous(y_offset, (2, PHASES))
    y_columns = y_ptr + y_offset
    tl.store(
        y_columns[None, :, :] + (channel_out * L_out)[:, None, None],
        interleaved.to(y_ptr.dtype.element_ty),
        mask=(channel_out < COUT_G)[:, None, None] & out_mask[None, :, :],
    )


class TransposedRows(Transposed):
    """See the module's docstring."""

    name = "transposed_rows"
    jit = transposed_rows_kernel
    raster = (("co", "l"), ("group",))

    def refusal(self, problem: Problem) -> str | None:
        if problem.dilation != 1 and problem.K > 1:
            return f"it runs dilation=1, not dilation={problem.dilation}"
        if next_power_of_two(problem.stride) > MOST_ROWS:
            return f"it runs stride up to {MOST_ROWS}, not stride={problem.stride}"
        return super().refusal(problem)

    def view(self, problem: Problem, meta: Meta) -> View:  # noqa: ARG002
        return View(
            rows=problem.Cout_per_group,
            columns=problem.N * cdiv(problem.L_out + problem.pad_left % problem.stride, problem.stride),
            channels=problem.Cin_per_group,
            taps=cdiv(problem.K, problem.stride),
            column_step=1,
            tap_step=-1,
            groups=problem.groups,
            row_repeat=next_power_of_two(problem.stride),
            run=problem.stride,
            samples=problem.N,
            tap_outermost=problem.layout == "nlc",
        )

    def constants(self, problem: Problem) -> dict[str, Scalar]:
        return {
            "PHASES": next_power_of_two(problem.stride),
            "CHANNEL_FASTEST": problem.layout == "nlc",
            "INDEX_64": columns_need_int64(problem),
        }

    def tilings(self, problem: Problem, device: Device) -> Iterator[dict[str, int]]:  # noqa: ARG002
        view = self.view(problem, {})
        phases = view.row_repeat
        least = max(1, LEAST_DOT // phases)
        most = max(least, min(MOST_ROWS // phases, next_power_of_two(view.rows)))
        columns = tile_sizes(view.columns, self.most_columns)
        deep = depths(problem, view.channels if self.by_tap(view) else view.reduction)
        for block_co, block_l, block_r in product(powers_of_two(least, most), columns, deep):
            yield {"BLOCK_CO": block_co, "BLOCK_L": block_l, "BLOCK_R": block_r}

    def vectors(self, problem: Problem) -> tuple[int, int, int]:
        # A channel's phases are neighbours in w, read together where none of them runs past K.
        size, stride = problem.dtype_bytes, problem.stride
        even = next_power_of_two(stride) == stride
        # Of a step along L Triton knows whether 16 divides it, and no more.
        along_channels = problem.layout == "nlc" and problem.Cin % 16 == 0
        x = min(16, alignment(problem.Cin_per_group) * size) if along_channels else size
        w = min(16, alignment(problem.K, stride) * size) if even and problem.K % stride == 0 else size
        y = min(16, alignment(problem.L_out, problem.pad_left % stride, stride) * size) if even else size
        return x, w, y

    def w_strides(self, problem: Problem, view: View) -> tuple[int, int, int, int]:
        channel = problem.Cout_per_group * problem.K
        return view.channels * channel, problem.K, channel, problem.stride

    def w_rows(self, problem: Problem, meta: Meta) -> Axis:
        phases = next_power_of_two(problem.stride)
        return Axis(meta["BLOCK_CO"] * phases, phases, 1, problem.K)


KERNEL = TransposedRows()
