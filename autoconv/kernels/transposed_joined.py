"""`transposed_joined`: a transposed convolution of stride 2 or 4; a block computes all phases of its outputs.

As in `transposed_phases` each phase of the output has taps of its own, or none. Here a block sums one phase
after the other, keeps them all in registers, and interleaves them before the store: every sector of y is
written whole and at once. A store of every other element costs the L2 as much as one of all, twice over.
"""

from __future__ import annotations

import math
from dataclasses import replace

import triton
import triton.language as tl

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.implicit_gemm import Meta, View
from autoconv.kernels.sizes import alignment, cdiv
from autoconv.kernels.tiles import store_tile, tile_of
from autoconv.kernels.transposed import ByPhase
from autoconv.kernels.work import MOST_ACCUMULATORS, Access, Work
from autoconv.problem import Problem

STRIDES = (2, 4)


@triton.jit
def phase_sum(
    x_group,
    w_rows,
    m,
    row_mask,
    L,
    x_channel,
    x_step,
    PHASE: tl.constexpr,
    CIN_G: tl.constexpr,
    COUT_G: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    GCD: tl.constexpr,
    INVERSE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """Return the sums (BLOCK_CO, BLOCK_L) of the outputs STRIDE * m + PHASE; zeros where it has no taps."""
    TAP_STEP: tl.constexpr = STRIDE // GCD
    FIRST_TAP: tl.constexpr = (PHASE // GCD * INVERSE) % TAP_STEP
    TAPS: tl.constexpr = (K - FIRST_TAP + TAP_STEP - 1) // TAP_STEP if PHASE % GCD == 0 else 0
    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    if TAPS > 0:
        BEHIND: tl.constexpr = (FIRST_TAP * DILATION - PHASE) // STRIDE  # exact
        for r0 in range(0, CIN_G * TAPS, BLOCK_R):
            r = r0 + tl.arange(0, BLOCK_R)
            r_mask = r < CIN_G * TAPS
            position = (m - BEHIND)[None, :] - ((r % TAPS) * (DILATION // GCD))[:, None]
            x_mask = r_mask[:, None] & (position >= 0) & (position < L)
            x = tl.load(
                x_group + ((r // TAPS) * x_channel)[:, None] + position * x_step, mask=x_mask, other=0.0
            )
            w_offset = (r // TAPS) * (COUT_G * K) + FIRST_TAP + (r % TAPS) * TAP_STEP
            w = tl.load(
                w_rows[:, None] + w_offset[None, :], mask=row_mask[:, None] & r_mask[None, :], other=0.0
            )
            acc = tl.dot(w, x, acc, input_precision=PRECISION)
    return acc


@triton.jit
def transposed_joined_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
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
    PAD_LEFT: tl.constexpr,
    DILATION: tl.constexpr,
    GCD: tl.constexpr,
    INVERSE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    Y_ALIGN: tl.constexpr,
    INDEX_64: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    BEFORE: tl.constexpr = PAD_LEFT % STRIDE  # outputs of the first column that lie before 0
    L_out = L_out_units * Y_ALIGN
    group = tl.program_id(1)
    if INDEX_64:
        x_channel = x_channel.to(tl.int64)
    row, col, n = tile_of(COUT_G, tl.cdiv(L_out + BEFORE, STRIDE), BLOCK_CO, BLOCK_L, INDEX_64)
    row_mask = row < COUT_G
    m = PAD_LEFT // STRIDE + col
    x_group = x_ptr + n * x_batch + group * CIN_G * x_channel
    w_rows = w_ptr + (group * CIN_G * COUT_G + row) * K

    sum0 = phase_sum(
        x_group, w_rows, m, row_mask, L, x_channel, x_step, 0, CIN_G, COUT_G, K, STRIDE, DILATION, GCD,
        INVERSE, PRECISION, BLOCK_CO, BLOCK_L, BLOCK_R,
    )  # fmt: skip
    sum1 = phase_sum(
        x_group, w_rows, m, row_mask, L, x_channel, x_step, 1, CIN_G, COUT_G, K, STRIDE, DILATION, GCD,
        INVERSE, PRECISION, BLOCK_CO, BLOCK_L, BLOCK_R,
    )  # fmt: skip
    if STRIDE == 4:
        sum2 = phase_sum(
            x_group, w_rows, m, row_mask, L, x_channel, x_step, 2, CIN_G, COUT_G, K, STRIDE, DILATION, GCD,
            INVERSE, PRECISION, BLOCK_CO, BLOCK_L, BLOCK_R,
        )  # fmt: skip
        sum3 = phase_sum(
            x_group, w_rows, m, row_mask, L, x_channel, x_step, 3, CIN_G, COUT_G, K, STRIDE, DILATION, GCD,
            INVERSE, PRECISION, BLOCK_CO, BLOCK_L, BLOCK_R,
        )  # fmt: skip
        joined = tl.join(tl.join(sum0, sum2), tl.join(sum1, sum3))
    else:
        joined = tl.join(sum0, sum1)
    result = tl.reshape(joined, (BLOCK_CO, BLOCK_L * STRIDE))

    first = tl.program_id(0) // tl.cdiv(COUT_G, BLOCK_CO) % tl.cdiv(tl.cdiv(L_out + BEFORE, STRIDE), BLOCK_L)
    if INDEX_64:
        first = first.to(tl.int64)
    out = first * (BLOCK_L * STRIDE) + tl.arange(0, BLOCK_L * STRIDE) - BEFORE
    store_tile(
        result, b_ptr, y_ptr, n, group * COUT_G + row, out, row_mask, (out >= 0) & (out < L_out), L_out, COUT,
        HAS_BIAS, ACTIVATION, INDEX_64,
    )  # fmt: skip


class TransposedJoined(ByPhase):
    """See the module's docstring."""

    name = "transposed_joined"
    jit = transposed_joined_kernel
    raster = (("co", "l", "n"), ("group",))
    most_rows = 128
    most_columns = 128

    def refusal(self, problem: Problem) -> str | None:
        if problem.stride not in STRIDES:
            return f"it runs stride {' or '.join(map(str, STRIDES))}, not stride={problem.stride}"
        return super().refusal(problem)

    def view(self, problem: Problem, meta: Meta) -> View:
        columns = cdiv(problem.L_out + problem.pad_left % problem.stride, problem.stride)
        return replace(super().view(problem, meta), columns=columns, run=problem.stride)

    def worthwhile(self, problem: Problem, meta: Meta, device: Device) -> bool:  # noqa: ARG002
        return meta["BLOCK_CO"] * meta["BLOCK_L"] * problem.stride <= MOST_ACCUMULATORS

    def vectors(self, problem: Problem) -> tuple[int, int, int]:
        size = problem.dtype_bytes
        return size, size, min(16, alignment(problem.L_out, problem.pad_left % problem.stride) * size)

    def passes(self, problem: Problem) -> int:
        return problem.stride // math.gcd(problem.stride, problem.dilation)

    def read_w(self, problem: Problem, meta: Meta) -> Access:
        channels = min(meta["BLOCK_CO"], problem.Cout_per_group)
        whole = channels * problem.Cin_per_group * problem.K * problem.dtype_bytes
        return replace(super().read_w(problem, meta), distinct_bytes=whole)

    def work(self, problem: Problem, config: Config) -> Work:
        work = super().work(problem, config)
        rows, columns = work.tile
        return replace(work, tile=(rows, columns * problem.stride))


KERNEL = TransposedJoined()
