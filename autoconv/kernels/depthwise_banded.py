"""`depthwise_banded`: a long depthwise filter as a product with a banded matrix, on the tensor cores.

A channel's outputs are cut into P rows of Q columns, y[p, q] = sum over j of x[p * Q * stride + j] * T[j, q],
where column q of the Toeplitz matrix T holds the filter from row q * stride on, taps `dilation` apart. The
rows of x overlap and come out of the L1; T comes out of the filter by a gather. A fraction K / (Q + K) of
the products is not with zero, so it pays where K is at least as long as a tile is wide.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import triton
import triton.language as tl

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.base import Grid, Kernel, Scalar
from autoconv.kernels.depthwise import depthwise_only
from autoconv.kernels.epilogue import activated
from autoconv.kernels.sizes import Strides, cdiv, needs_int64
from autoconv.kernels.space import depths, pipelines, tile_sizes
from autoconv.kernels.work import Work, fits, read_w, read_x, window, write_y
from autoconv.problem import Problem

LEAST_TAPS = 16  # a shorter filter fills too little of the band


@triton.jit
def depthwise_banded_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    L,
    L_out,
    x_batch,
    x_channel,
    x_step,
    COUT: tl.constexpr,
    MULTIPLIER: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    DILATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX_64: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_J: tl.constexpr,
):
    BAND: tl.constexpr = (BLOCK_Q - 1) * STRIDE + (K - 1) * DILATION + 1
    tiles_l = tl.cdiv(L_out, BLOCK_P * BLOCK_Q)
    tile = tl.program_id(0)
    tile_l = tile % tiles_l
    channel_out = (tile // tiles_l) % COUT
    n = (tile // tiles_l // COUT).to(tl.int64)
    if INDEX_64:
        tile_l = tile_l.to(tl.int64)
        L_out = L_out.to(tl.int64)
        x_channel = x_channel.to(tl.int64)

    p = tl.arange(0, BLOCK_P)
    q = tl.arange(0, BLOCK_Q)
    first = (tile_l * BLOCK_P + p) * BLOCK_Q  # output position of each row's first column
    x_row = x_ptr + n * x_batch + (channel_out // MULTIPLIER) * x_channel
    w_row = w_ptr + channel_out * K

    acc = tl.zeros((BLOCK_P, BLOCK_Q), dtype=tl.float32)
    for j0 in range(0, BAND, BLOCK_J):
        j = j0 + tl.arange(0, BLOCK_J)
        position = (first * STRIDE - PAD_LEFT)[:, None] + j[None, :]
        x_mask = (position >= 0) & (position < L) & (j < BAND)[None, :]
        x = tl.load(x_row + position * x_step, mask=x_mask, other=0.0)
        behind = j[:, None] - (q * STRIDE)[None, :]
        tap = behind // DILATION
        in_band = (behind >= 0) & (tap < K) & (behind - tap * DILATION == 0)
        band = tl.load(w_row + tap, mask=in_band, other=0.0)
        acc = tl.dot(x, band, acc, input_precision=PRECISION)

    if HAS_BIAS:
        acc += tl.load(b_ptr + channel_out).to(tl.float32)
    acc = activated(acc, ACTIVATION)
    if INDEX_64:
        channel_out = channel_out.to(tl.int64)
    col = first[:, None] + q[None, :]
    y_row = y_ptr + n * COUT * L_out + channel_out * L_out
    tl.store(y_row + col, acc.to(y_ptr.dtype.element_ty), mask=col < L_out)


class DepthwiseBanded(Kernel):
    """See the module's docstring."""

    name = "depthwise_banded"
    tiles = ("BLOCK_P", "BLOCK_Q", "BLOCK_J")
    jit = depthwise_banded_kernel

    def unsupported(self, problem: Problem) -> str | None:
        if problem.K < LEAST_TAPS:
            return f"it runs K >= {LEAST_TAPS}, not K={problem.K}"
        return depthwise_only(problem)

    def space(self, problem: Problem, device: Device) -> Iterator[Config]:
        for block_p, block_q, block_j in product(
            tile_sizes(cdiv(problem.L_out, 16), 128), tile_sizes(problem.L_out, 64), depths(problem, 64)
        ):
            tiles = {"BLOCK_P": block_p, "BLOCK_Q": block_q, "BLOCK_J": block_j}
            for num_warps, num_stages in pipelines(cdiv(_band(problem, block_q), block_j), warps=(1, 2, 4)):
                config = Config(self.name, tiles, num_warps=num_warps, num_stages=num_stages)
                if fits(self.work(problem, config), config, device):
                    yield config

    def grid(self, problem: Problem) -> Grid:
        return lambda META: (
            problem.N * problem.Cout * cdiv(problem.L_out, META["BLOCK_P"] * META["BLOCK_Q"]),
        )

    def arguments(self, problem: Problem, x_strides: Strides) -> dict[str, Scalar]:
        x_batch, x_channel, x_step = x_strides
        return {
            "L": problem.L,
            "L_out": problem.L_out,
            "x_batch": x_batch,
            "x_channel": x_channel,
            "x_step": x_step,
            "COUT": problem.Cout,
            "MULTIPLIER": problem.Cout_per_group,
            "K": problem.K,
            "STRIDE": problem.stride,
            "PAD_LEFT": problem.pad_left,
            "DILATION": problem.dilation,
            "HAS_BIAS": problem.bias,
            "ACTIVATION": problem.activation,
            "PRECISION": problem.precision,
            "INDEX_64": needs_int64(problem),
        }

    def work(self, problem: Problem, config: Config) -> Work:
        rows, columns, depth = (config.meta[tile] for tile in self.tiles)
        size = problem.dtype_bytes
        steps = cdiv(_band(problem, columns), depth)
        return Work(
            order=(
                ("l", cdiv(problem.L_out, rows * columns)),
                ("co", problem.Cout),
                ("n", problem.N),
            ),
            steps=steps,
            flops=2.0 * rows * columns * depth * steps,
            reads=(
                read_x(
                    problem,
                    elements=rows * depth * steps,
                    positions=window(problem, rows * columns),
                    channels=1,
                    columns=rows,
                    depth=depth,
                    varies=("l", "co", "n"),
                    advance=rows * columns * problem.stride,
                    lanes_along="reduction",
                    taps=(depth, 1),
                    stride=columns * problem.stride,
                    moves=(("l", rows * columns * problem.stride), ("co", problem.L)),
                ),
                read_w(
                    problem,
                    elements=columns * depth * steps,
                    distinct=problem.K,
                    rows=columns,
                    depth=depth,
                    varies=("co",),
                    row_stride=1,
                ),
            ),
            write=write_y(
                problem,
                rows=rows,
                columns=columns,
                varies=("l", "co", "n"),
                row_stride=columns,
                moves=(("l", rows * columns), ("co", problem.L_out)),
            ),
            tile=(rows, columns),
            stage_bytes_by_operand=(rows * depth * size, columns * depth * size),
            address_instructions=8.0,  # as `dense`
        )


def _band(problem: Problem, columns: int) -> int:
    """Return the rows of the banded matrix for tiles of that many columns."""
    return window(problem, columns)


KERNEL = DepthwiseBanded()
