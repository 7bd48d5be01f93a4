"""`im2col_rows`: rows of (sample, output position) by columns of Cout, the baseline.

This is the schedule that most published conv1d kernels use: one row per output position of the whole batch,
so a tile may straddle two samples, and every row pays a division by L_out and every element of the
reduction a division by K. x is read once per tile of Cout, and stores go to rows of y that start anywhere.
It is kept to measure the others against, never to win.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import triton
import triton.language as tl

from autoconv.config import Config
from autoconv.device import Device
from autoconv.kernels.bindings import Scalar
from autoconv.kernels.implicit_gemm import ImplicitGemm, Meta, View, neighbours
from autoconv.kernels.sizes import MAX_INT32, alignment, largest_sample
from autoconv.kernels.space import depths, tile_sizes
from autoconv.kernels.tiles import activated
from autoconv.kernels.work import MOST_OF_THREAD, Work
from autoconv.problem import Problem

SPARING = 32  # accumulators of a thread, where each has an address too


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


class Im2colRows(ImplicitGemm):
    """See the module's docstring: what are columns elsewhere are rows here, across samples."""

    name = "im2col_rows"
    jit = im2col_rows_kernel
    tiles = ("BLOCK_M", "BLOCK_N", "BLOCK_K")
    raster = (("l",), ("co",))

    def view(self, problem: Problem, meta: Meta) -> View:
        return replace(super().view(problem, meta), columns=problem.N * problem.L_out, samples=problem.N)

    def constants(self, problem: Problem) -> dict[str, Scalar]:
        return {"INDEX_64": problem.N * largest_sample(problem) > MAX_INT32}  # offsets count from x and y

    def tilings(self, problem: Problem, device: Device) -> Iterator[dict[str, int]]:  # noqa: ARG002
        rows = tile_sizes(problem.N * problem.L_out, 128, least=32)
        columns, deep = tile_sizes(problem.Cout, 128), depths(problem, problem.reduction)
        for block_m, block_n, block_k in product(rows, columns, deep):
            yield {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k}

    def pipelines(self, work: Work) -> Iterator[tuple[int, int]]:  # noqa: ARG002 - as it is published
        yield from product((4, 8), (2, 3))

    def fits(self, work: Work, config: Config, device: Device) -> bool:
        # From 3.7 on each accumulator of a thread is stored to a row of its own: addresses that spill.
        most = neighbours(MOST_OF_THREAD, SPARING)
        return work.accumulators <= most * 32 * config.num_warps and super().fits(work, config, device)

    def extents(self, problem: Problem, meta: Meta) -> dict[str, int]:
        return super().extents(problem, _named(meta))

    def work(self, problem: Problem, config: Config) -> Work:
        tiles = Config(self.name, _named(config.tiles), config.num_warps, config.num_stages)
        work = super().work(problem, tiles)
        return replace(work, tile=work.tile[::-1], stage_bytes_by_operand=work.stage_bytes_by_operand[::-1])

    def lanes_of_x(self, view: View, channel: int, position: int) -> str:  # noqa: ARG002
        return "columns"  # see `vectors`

    def vectors(self, problem: Problem) -> tuple[int, int, int]:
        # Lanes lie along the rows, which is where Triton 3.3 puts them for x and y; from 3.7 on it puts
        # them along the reduction and along Cout, as neither axis is known to be contiguous.
        size = problem.dtype_bytes
        return size, min(16, alignment(problem.reduction) * size), size


def _named(meta: Meta) -> dict[str, int]:
    """Return the tiles by the names that all other kernels give them."""
    if "BLOCK_CO" in meta:
        return dict(meta)
    return {"BLOCK_CO": meta["BLOCK_N"], "BLOCK_L": meta["BLOCK_M"], "BLOCK_R": meta["BLOCK_K"]}


KERNEL = Im2colRows()
