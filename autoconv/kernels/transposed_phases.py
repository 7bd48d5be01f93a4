"""`transposed_phases`: a transposed convolution as `stride` ordinary ones, one for each phase of the output.

Output o lies in phase (o + pad_left) % stride, and all outputs of a phase use the same taps: with
g = gcd(stride, dilation), phases that g does not divide have none (they get the bias alone), the others
every (stride / g)-th tap from a first one. Within a phase this is a convolution of stride 1 whose window
steps back by dilation / g. Every output is written by exactly one program; there are no atomics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import triton
import triton.language as tl

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.base import Grid, Kernel, Scalar
from autoconv.kernels.epilogue import finished
from autoconv.kernels.sizes import Strides, cdiv, needs_int64
from autoconv.kernels.space import depths, pipelines, tile_sizes
from autoconv.kernels.work import Work, fits, read_w, read_x, write_y
from autoconv.problem import Problem


@triton.jit
def transposed_phases_kernel(
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
    PAD_LEFT: tl.constexpr,
    DILATION: tl.constexpr,
    GCD: tl.constexpr,
    INVERSE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX_64: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    TAP_STEP: tl.constexpr = STRIDE // GCD
    TAPS: tl.constexpr = (K + TAP_STEP - 1) // TAP_STEP  # of one phase, the last perhaps past K
    REDUCTION: tl.constexpr = CIN_G * TAPS
    phase = tl.program_id(1)
    group = tl.program_id(2)
    columns = tl.cdiv(L_out, STRIDE)  # of a phase, the last perhaps past L_out
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

    row = tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    row_mask = row < COUT_G
    # o + PAD_LEFT = phase + STRIDE * m, and o >= 0
    first_m = tl.maximum(PAD_LEFT - phase + STRIDE - 1, 0) // STRIDE
    m = first_m + tile_l * BLOCK_L + tl.arange(0, BLOCK_L)
    first_tap = (phase // GCD * INVERSE) % TAP_STEP
    behind = (first_tap * DILATION - phase) // STRIDE  # exact where the phase has taps
    x_group = x_ptr + n * x_batch + group * CIN_G * x_channel
    w_rows = w_ptr + (group * CIN_G * COUT_G + row) * K

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    if phase % GCD == 0:
        for r0 in range(0, REDUCTION, BLOCK_R):
            r = r0 + tl.arange(0, BLOCK_R)
            tap = first_tap + (r % TAPS) * TAP_STEP
            r_mask = (r < REDUCTION) & (tap < K)
            position = (m - behind)[None, :] - ((r % TAPS) * (DILATION // GCD))[:, None]
            x_mask = r_mask[:, None] & (position >= 0) & (position < L)
            x = tl.load(
                x_group + ((r // TAPS) * x_channel)[:, None] + position * x_step, mask=x_mask, other=0.0
            )
            w_offset = (r // TAPS) * (COUT_G * K) + tap
            w = tl.load(
                w_rows[:, None] + w_offset[None, :], mask=row_mask[:, None] & r_mask[None, :], other=0.0
            )
            acc = tl.dot(w, x, acc, input_precision=PRECISION)

    channel_out = group * COUT_G + row
    acc = finished(acc, b_ptr, channel_out, row_mask, HAS_BIAS, ACTIVATION)
    if INDEX_64:
        channel_out = channel_out.to(tl.int64)
    col = phase + STRIDE * m - PAD_LEFT
    y_sample = y_ptr + n * COUT * L_out
    y_mask = row_mask[:, None] & (col < L_out)[None, :]
    y_offset = channel_out[:, None] * L_out + col[None, :]
    tl.store(y_sample + y_offset, acc.to(y_ptr.dtype.element_ty), mask=y_mask)


class TransposedPhases(Kernel):
    """See the module's docstring."""

    name = "transposed_phases"
    tiles = ("BLOCK_CO", "BLOCK_L", "BLOCK_R")
    jit = transposed_phases_kernel

    def unsupported(self, problem: Problem) -> str | None:
        if max(problem.stride, problem.groups) > 65535:
            return "its grid puts phases and groups on axes y and z, which stop at 65535"
        return transposed_only(problem)

    def space(self, problem: Problem, device: Device) -> Iterator[Config]:
        rows = tile_sizes(problem.Cout_per_group, 128)
        columns = tile_sizes(cdiv(problem.L_out, problem.stride), 256)
        reduction = _reduction(problem)
        for block_co, block_l, block_r in product(rows, columns, depths(problem, reduction)):
            tiles = {"BLOCK_CO": block_co, "BLOCK_L": block_l, "BLOCK_R": block_r}
            for num_warps, num_stages in pipelines(cdiv(reduction, block_r)):
                config = Config(self.name, tiles, num_warps=num_warps, num_stages=num_stages)
                if fits(self.work(problem, config), config, device):
                    yield config

    def grid(self, problem: Problem) -> Grid:
        columns = cdiv(problem.L_out, problem.stride)
        return lambda META: (
            problem.N * cdiv(columns, META["BLOCK_L"]) * cdiv(problem.Cout_per_group, META["BLOCK_CO"]),
            problem.stride,
            problem.groups,
        )

    def arguments(self, problem: Problem, x_strides: Strides) -> dict[str, Scalar]:
        x_batch, x_channel, x_step = x_strides
        gcd = math.gcd(problem.stride, problem.dilation)
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
            "PAD_LEFT": problem.pad_left,
            "DILATION": problem.dilation,
            "GCD": gcd,
            # A phase's first tap k solves k * dilation = phase (mod stride).
            "INVERSE": pow(problem.dilation // gcd, -1, problem.stride // gcd),
            "HAS_BIAS": problem.bias,
            "ACTIVATION": problem.activation,
            "PRECISION": problem.precision,
            "INDEX_64": needs_int64(problem),
        }

    def work(self, problem: Problem, config: Config) -> Work:
        rows, columns, depth = (config.meta[tile] for tile in self.tiles)
        size = problem.dtype_bytes
        steps = cdiv(_reduction(problem), depth)
        reach = columns + (problem.K - 1) * problem.dilation // problem.stride
        return Work(
            order=(
                ("co", cdiv(problem.Cout_per_group, rows)),
                ("l", cdiv(cdiv(problem.L_out, problem.stride), columns)),
                ("n", problem.N),
                ("phase", problem.stride),
                ("group", problem.groups),
            ),
            steps=steps,
            flops=2.0 * rows * columns * depth * steps,
            reads=(
                read_x(
                    problem,
                    elements=columns * depth * steps,
                    positions=reach,
                    channels=problem.Cin_per_group,
                    columns=columns,
                    depth=depth,
                    varies=("l", "n", "group"),  # not "phase": each of them reads all of x
                    advance=columns,
                    stride=1,
                    moves=(("l", columns), ("n", problem.Cin * problem.L)),
                ),
                read_w(
                    problem,
                    elements=rows * depth * steps,
                    distinct=min(rows, problem.Cout_per_group) * _reduction(problem),
                    rows=rows,
                    depth=depth,
                    varies=("co", "phase", "group"),
                    lane_stride=problem.Cout_per_group * problem.K,
                    row_stride=problem.K,
                ),
            ),
            write=write_y(
                problem,
                rows=rows,
                columns=columns,
                varies=("co", "l", "n", "phase", "group"),
                lane_stride=problem.stride,
                moves=(("co", rows * problem.L_out), ("l", columns * problem.stride), ("phase", 1)),
            ),
            tile=(rows, columns),
            stage_bytes_by_operand=(rows * depth * size, columns * depth * size),
            address_instructions=10.0,
        )


def transposed_only(problem: Problem) -> str | None:
    """Return why a kernel for op=conv_transpose cannot run `problem`, or None where it can."""
    return None if problem.op == "conv_transpose" else f"it runs op=conv_transpose, not op={problem.op}"


def _reduction(problem: Problem) -> int:
    tap_step = problem.stride // math.gcd(problem.stride, problem.dilation)
    return problem.Cin_per_group * cdiv(problem.K, tap_step)


KERNEL = TransposedPhases()
