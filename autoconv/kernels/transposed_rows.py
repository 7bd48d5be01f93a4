"""`transposed_rows`: a transposed convolution of dilation 1 as one GEMM with a row for each (channel, phase).

With dilation 1, output o = phase + stride * m - pad_left takes tap phase + stride * t from input m - t,
whatever the phase: one tile of x serves all phases, so x is read once. The phases of a channel are
neighbouring rows of the accumulator, and interleaving them before the store makes runs along L.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import triton
import triton.language as tl

from autoconv.device import Device
from autoconv.kernels.bindings import Scalar
from autoconv.kernels.implicit_gemm import Meta, View
from autoconv.kernels.sizes import alignment, cdiv, next_power_of_two, powers_of_two
from autoconv.kernels.space import LEAST_DOT, depths, tile_sizes
from autoconv.kernels.tiles import store_tile, tile_of
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
    L,
    L_out,
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
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX_64: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    TAPS: tl.constexpr = (K + STRIDE - 1) // STRIDE
    REDUCTION: tl.constexpr = CIN_G * TAPS
    ROWS: tl.constexpr = BLOCK_CO * PHASES
    if INDEX_64:
        x_channel = x_channel.to(tl.int64)
    columns = tl.cdiv(L_out + PAD_LEFT, STRIDE)
    channel, m, n = tile_of(COUT_G, columns, BLOCK_CO, BLOCK_L, INDEX_64)
    group = tl.program_id(1)
    row = tl.arange(0, ROWS)
    phase = row % PHASES
    row_channel = (tl.program_id(0) % tl.cdiv(COUT_G, BLOCK_CO)) * BLOCK_CO + row // PHASES
    row_mask = (row_channel < COUT_G) & (phase < STRIDE)
    x_group = x_ptr + n * x_batch + group * CIN_G * x_channel
    w_rows = w_ptr + (group * CIN_G * COUT_G + row_channel) * K + phase

    acc = tl.zeros((ROWS, BLOCK_L), dtype=tl.float32)
    for r0 in range(0, REDUCTION, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)
        turn = r % TAPS
        position = m[None, :] - turn[:, None]
        x_mask = (r < REDUCTION)[:, None] & (position >= 0) & (position < L)
        x = tl.load(x_group + ((r // TAPS) * x_channel)[:, None] + position * x_step, mask=x_mask, other=0.0)
        w_mask = (
            row_mask[:, None] & (r < REDUCTION)[None, :] & (phase[:, None] + (turn * STRIDE)[None, :] < K)
        )
        w_offset = (r // TAPS) * (COUT_G * K) + turn * STRIDE
        w = tl.load(w_rows[:, None] + w_offset[None, :], mask=w_mask, other=0.0)
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    interleaved = tl.permute(tl.reshape(acc, (BLOCK_CO, PHASES, BLOCK_L)), (0, 2, 1))
    result = tl.reshape(interleaved, (BLOCK_CO, BLOCK_L * PHASES))
    place = tl.arange(0, BLOCK_L * PHASES)
    first_m = tl.program_id(0) // tl.cdiv(COUT_G, BLOCK_CO) % tl.cdiv(columns, BLOCK_L) * BLOCK_L
    if INDEX_64:
        first_m = first_m.to(tl.int64)
    out = (first_m + place // PHASES) * STRIDE + place % PHASES - PAD_LEFT
    out_mask = (place % PHASES < STRIDE) & (out >= 0) & (out < L_out)
    store_tile(
        result, b_ptr, y_ptr, n, group * COUT_G + channel, out, channel < COUT_G, out_mask, L_out, COUT,
        HAS_BIAS, ACTIVATION, INDEX_64,
    )  # fmt: skip


class TransposedRows(Transposed):
    """See the module's docstring."""

    name = "transposed_rows"
    jit = transposed_rows_kernel
    raster = (("co", "l", "n"), ("group",))

    def refusal(self, problem: Problem) -> str | None:
        if problem.dilation != 1 and problem.K > 1:
            return f"it runs dilation=1, not dilation={problem.dilation}"
        if next_power_of_two(problem.stride) > MOST_ROWS:
            return f"it runs stride up to {MOST_ROWS}, not stride={problem.stride}"
        return super().refusal(problem)

    def view(self, problem: Problem, meta: Meta) -> View:  # noqa: ARG002
        return View(
            rows=problem.Cout_per_group,
            columns=cdiv(problem.L_out + problem.pad_left, problem.stride),
            channels=problem.Cin_per_group,
            taps=cdiv(problem.K, problem.stride),
            column_step=1,
            tap_step=-1,
            groups=problem.groups,
            row_repeat=next_power_of_two(problem.stride),
            run=problem.stride,
        )

    def constants(self, problem: Problem) -> dict[str, Scalar]:
        return {"PHASES": next_power_of_two(problem.stride)}

    def tilings(self, problem: Problem, device: Device) -> Iterator[dict[str, int]]:  # noqa: ARG002
        view = self.view(problem, {})
        phases = view.row_repeat
        least = max(1, LEAST_DOT // phases)
        most = max(least, min(MOST_ROWS // phases, next_power_of_two(view.rows)))
        columns, deep = tile_sizes(view.columns, self.most_columns), depths(problem, view.reduction)
        for block_co, block_l, block_r in product(powers_of_two(least, most), columns, deep):
            yield {"BLOCK_CO": block_co, "BLOCK_L": block_l, "BLOCK_R": block_r}

    def vectors(self, problem: Problem) -> tuple[int, int, int]:
        # A channel's phases are neighbours in w, read together where none of them runs past K.
        size, stride = problem.dtype_bytes, problem.stride
        whole = problem.K % stride == 0 and next_power_of_two(stride) == stride
        return size, min(16, alignment(problem.K, stride) * size) if whole else size, size

    def w_strides(self, problem: Problem, view: View) -> tuple[int, int, int, int]:
        channel = problem.Cout_per_group * problem.K
        return view.channels * channel, problem.K, channel, problem.stride

    def w_rows(self, problem: Problem, meta: Meta) -> Axis:
        phases = next_power_of_two(problem.stride)
        return Axis(meta["BLOCK_CO"] * phases, phases, 1, problem.K)


KERNEL = TransposedRows()
