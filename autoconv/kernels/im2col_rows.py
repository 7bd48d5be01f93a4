"""`im2col_rows`: rows of (sample, output position) by columns of Cout, the yardstick.

This is the schedule that most published conv1d kernels use: one row per output position of the whole batch,
so a tile may straddle two samples, and every row pays a division by L_out and every element of the
reduction a division by K. x is read once per tile of Cout, and stores go to rows of y that start anywhere.
It is kept to measure the others against, never to win.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import triton
import triton.language as tl

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.base import Grid, Kernel, Scalar, dense_only
from autoconv.kernels.epilogue import activated
from autoconv.kernels.sizes import MAX_INT32, Strides, alignment, cdiv, largest_sample
from autoconv.kernels.space import depths, tile_sizes
from autoconv.kernels.work import Work, fits, read_w, read_x, window, write_y
from autoconv.problem import Problem


@triton.jit
def im2col_rows_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    N,
    L,
    L_out,
    x_batch,
    x_channel,
    x_step,
    stride,
    pad_left,
    dilation,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX_64: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    REDUCTION: tl.constexpr = CIN * K
    tile_m = tl.program_id(0)
    tile_n = tl.program_id(1)
    if INDEX_64:
        tile_m = tile_m.to(tl.int64)
        x_channel = x_channel.to(tl.int64)
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    co = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    co_mask = co < COUT
    n = m // L_out
    l_out = m % L_out
    m_mask = n < N

    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k0 in range(0, REDUCTION, BLOCK_K):
        r = k0 + tl.arange(0, BLOCK_K)
        r_mask = r < REDUCTION
        position = (l_out * stride - pad_left)[:, None] + ((r % K) * dilation)[None, :]
        inside = (position >= 0) & (position < L)
        x_offset = (n * x_batch)[:, None] + ((r // K) * x_channel)[None, :] + position * x_step
        x = tl.load(x_ptr + x_offset, mask=m_mask[:, None] & r_mask[None, :] & inside, other=0.0)
        w_offset = co[None, :] * REDUCTION + r[:, None]
        w = tl.load(w_ptr + w_offset, mask=r_mask[:, None] & co_mask[None, :], other=0.0)
        acc = tl.dot(x, w, acc, input_precision=PRECISION)

    if HAS_BIAS:
        acc += tl.load(b_ptr + co, mask=co_mask, other=0.0).to(tl.float32)[None, :]
    acc = activated(acc, ACTIVATION)
    if INDEX_64:
        co = co.to(tl.int64)
    y_offset = (n * COUT * L_out + l_out)[:, None] + (co * L_out)[None, :]
    tl.store(y_ptr + y_offset, acc.to(y_ptr.dtype.element_ty), mask=m_mask[:, None] & co_mask[None, :])


class Im2colRows(Kernel):
    """See the module's docstring."""

    name = "im2col_rows"
    tiles = ("BLOCK_M", "BLOCK_N", "BLOCK_K")
    jit = im2col_rows_kernel

    def unsupported(self, problem: Problem) -> str | None:
        return dense_only(problem) or (
            "its grid puts tiles of Cout on axis y, which stops at 65535"
            if problem.Cout > 65535 * 16
            else None
        )

    def space(self, problem: Problem, device: Device) -> Iterator[Config]:
        rows = tile_sizes(problem.N * problem.L_out, 128, least=32)
        columns = tile_sizes(problem.Cout, 128)
        for block_m, block_n, block_k in product(rows, columns, depths(problem, problem.reduction)):
            tiles = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k}
            for num_warps, num_stages in product((4, 8), (2, 3)):
                config = Config(self.name, tiles, num_warps=num_warps, num_stages=num_stages)
                if fits(self.work(problem, config), config, device):
                    yield config

    def grid(self, problem: Problem) -> Grid:
        rows = problem.N * problem.L_out
        return lambda META: (cdiv(rows, META["BLOCK_M"]), cdiv(problem.Cout, META["BLOCK_N"]))

    def arguments(self, problem: Problem, x_strides: Strides) -> dict[str, Scalar]:
        x_batch, x_channel, x_step = x_strides
        return {
            "N": problem.N,
            "L": problem.L,
            "L_out": problem.L_out,
            "x_batch": x_batch,
            "x_channel": x_channel,
            "x_step": x_step,
            "stride": problem.stride,
            "pad_left": problem.pad_left,
            "dilation": problem.dilation,
            "CIN": problem.Cin,
            "COUT": problem.Cout,
            "K": problem.K,
            "HAS_BIAS": problem.bias,
            "ACTIVATION": problem.activation,
            "PRECISION": problem.precision,
            "INDEX_64": problem.N * largest_sample(problem) > MAX_INT32,
        }

    def work(self, problem: Problem, config: Config) -> Work:
        rows, columns, depth = (config.meta[tile] for tile in self.tiles)
        size = problem.dtype_bytes
        steps = cdiv(problem.reduction, depth)
        tiles_m, tiles_n = self.grid(problem)(config.meta)
        return Work(
            order=(("m", tiles_m), ("co", tiles_n)),
            steps=steps,
            flops=2.0 * rows * columns * depth * steps,
            reads=(
                read_x(
                    problem,
                    elements=rows * depth * steps,
                    positions=window(problem, rows),
                    channels=problem.Cin,
                    columns=rows,
                    depth=depth,
                    varies=("m",),
                    advance=rows * problem.stride,
                    moves=(("m", rows * problem.stride),),
                ),
                read_w(
                    problem,
                    elements=columns * depth * steps,
                    distinct=min(columns, problem.Cout) * problem.reduction,
                    rows=columns,
                    depth=depth,
                    varies=("co",),
                    vector_bytes=min(16, alignment(problem.reduction) * size),
                ),
            ),
            # Lanes lie along the rows, which is where Triton 3.3 puts them for x and y; from 3.7 on it puts
            # them along the reduction and along Cout, as neither axis is known to be contiguous.
            write=write_y(
                problem,
                rows=columns,
                columns=rows,
                varies=("m", "co"),
                moves=(("m", rows), ("co", columns * problem.L_out)),
            ),
            tile=(rows, columns),
            stage_bytes_by_operand=(rows * depth * size, columns * depth * size),
            # In the SASS of the 64x64x32 tile for sm_89: about 650 integer instructions a thread and step
            # for 16 elements of x.
            address_instructions=40.0,
        )


KERNEL = Im2colRows()
