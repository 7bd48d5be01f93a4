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

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.base import Grid, Kernel, Scalar
from autoconv.kernels.epilogue import activated
from autoconv.kernels.sizes import Strides, cdiv, needs_int64, next_power_of_two, powers_of_two
from autoconv.kernels.space import LEAST_DOT, depths, pipelines, tile_sizes
from autoconv.kernels.transposed_phases import transposed_only
from autoconv.kernels.work import Work, fits, read_w, read_x, write_y
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
    group = tl.program_id(1)
    columns = tl.cdiv(L_out + PAD_LEFT, STRIDE)
    tiles_co = tl.cdiv(COUT_G, BLOCK_CO)
    tiles_l = tl.cdiv(columns, BLOCK_L)
    tile = tl.program_id(0)
    tile_co = tile % tiles_co
    tile_l = (tile // tiles_co) % tiles_l
    n = (tile // tiles_co // tiles_l).to(tl.int64)
    if INDEX_64:
        tile_l = tile_l.to(tl.int64)
        L_out = L_out.to(tl.int64)
        x_channel = x_channel.to(tl.int64)

    row = tl.arange(0, ROWS)
    phase = row % PHASES
    row_channel = tile_co * BLOCK_CO + row // PHASES
    row_mask = (row_channel < COUT_G) & (phase < STRIDE)
    m = tile_l * BLOCK_L + tl.arange(0, BLOCK_L)
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
    channel = tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    channel_mask = channel < COUT_G
    channel_out = group * COUT_G + channel
    if HAS_BIAS:
        result += tl.load(b_ptr + channel_out, mask=channel_mask, other=0.0).to(tl.float32)[:, None]
    result = activated(result, ACTIVATION)
    if INDEX_64:
        channel_out = channel_out.to(tl.int64)
    place = tl.arange(0, BLOCK_L * PHASES)
    col = (tile_l * BLOCK_L + place // PHASES) * STRIDE + place % PHASES - PAD_LEFT
    col_mask = (place % PHASES < STRIDE) & (col >= 0) & (col < L_out)
    y_sample = y_ptr + n * COUT * L_out
    y_offset = channel_out[:, None] * L_out + col[None, :]
    y_mask = channel_mask[:, None] & col_mask[None, :]
    tl.store(y_sample + y_offset, result.to(y_ptr.dtype.element_ty), mask=y_mask)


class TransposedRows(Kernel):
    """See the module's docstring."""

    name = "transposed_rows"
    tiles = ("BLOCK_CO", "BLOCK_L", "BLOCK_R")
    jit = transposed_rows_kernel

    def unsupported(self, problem: Problem) -> str | None:
        if problem.dilation != 1 and problem.K > 1:
            return f"it runs dilation=1, not dilation={problem.dilation}"
        if next_power_of_two(problem.stride) > MOST_ROWS:
            return f"it runs stride up to {MOST_ROWS}, not stride={problem.stride}"
        if problem.groups > 65535:
            return "its grid puts the groups on axis y, which stops at 65535"
        return transposed_only(problem)

    def space(self, problem: Problem, device: Device) -> Iterator[Config]:
        phases = next_power_of_two(problem.stride)
        least = max(1, LEAST_DOT // phases)
        most = max(least, min(MOST_ROWS // phases, next_power_of_two(problem.Cout_per_group)))
        columns = tile_sizes(self._columns(problem), 256)
        reduction = self._reduction(problem)
        for block_co, block_l, block_r in product(
            powers_of_two(least, most), columns, depths(problem, reduction)
        ):
            tiles = {"BLOCK_CO": block_co, "BLOCK_L": block_l, "BLOCK_R": block_r}
            for num_warps, num_stages in pipelines(cdiv(reduction, block_r)):
                config = Config(self.name, tiles, num_warps=num_warps, num_stages=num_stages)
                if fits(self.work(problem, config), config, device):
                    yield config

    def grid(self, problem: Problem) -> Grid:
        columns = self._columns(problem)
        return lambda META: (
            problem.N * cdiv(columns, META["BLOCK_L"]) * cdiv(problem.Cout_per_group, META["BLOCK_CO"]),
            problem.groups,
        )

    def arguments(self, problem: Problem, x_strides: Strides) -> dict[str, Scalar]:
        x_batch, x_channel, x_step = x_strides
        return {
            "L": problem.L,
            "L_out": problem.L_out,
            "x_batch": x_batch,
            "x_channel": x_channel,
            "x_step": x_step,
            "CIN_G": problem.Cin_per_group,
            "COUT_G": problem.Cout_per_group,
            "COUT": problem.Cout,
            "K": problem.K,
            "STRIDE": problem.stride,
            "PHASES": next_power_of_two(problem.stride),
            "PAD_LEFT": problem.pad_left,
            "HAS_BIAS": problem.bias,
            "ACTIVATION": problem.activation,
            "PRECISION": problem.precision,
            "INDEX_64": needs_int64(problem),
        }

    def work(self, problem: Problem, config: Config) -> Work:
        channels, columns, depth = (config.meta[tile] for tile in self.tiles)
        rows = channels * next_power_of_two(problem.stride)
        size = problem.dtype_bytes
        steps = cdiv(self._reduction(problem), depth)
        turns = cdiv(problem.K, problem.stride)
        return Work(
            order=(
                ("co", cdiv(problem.Cout_per_group, channels)),
                ("l", cdiv(self._columns(problem), columns)),
                ("n", problem.N),
                ("group", problem.groups),
            ),
            steps=steps,
            flops=2.0 * rows * columns * depth * steps,
            reads=(
                read_x(
                    problem,
                    elements=columns * depth * steps,
                    positions=columns + turns,
                    channels=problem.Cin_per_group,
                    columns=columns,
                    depth=depth,
                    varies=("l", "n", "group"),
                    advance=columns,
                    taps=(turns, 1),
                    stride=1,
                    moves=(("l", columns), ("n", problem.Cin * problem.L)),
                ),
                read_w(
                    problem,
                    elements=rows * depth * steps,
                    distinct=min(channels, problem.Cout_per_group) * problem.Cin_per_group * problem.K,
                    rows=rows,
                    depth=depth,
                    varies=("co", "group"),
                    lane_stride=problem.Cout_per_group * problem.K,
                    row_stride=1,
                ),
            ),
            write=write_y(
                problem,
                rows=channels,
                columns=problem.stride * columns,
                varies=("co", "l", "n", "group"),
                moves=(("co", channels * problem.L_out), ("l", columns * problem.stride)),
            ),
            tile=(rows, columns),
            stage_bytes_by_operand=(rows * depth * size, columns * depth * size),
            address_instructions=10.0,
        )

    @staticmethod
    def _columns(problem: Problem) -> int:
        return cdiv(problem.L_out + problem.pad_left, problem.stride)

    @staticmethod
    def _reduction(problem: Problem) -> int:
        return problem.Cin_per_group * cdiv(problem.K, problem.stride)


KERNEL = TransposedRows()
