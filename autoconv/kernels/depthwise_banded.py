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

from autoconv.device import Device
from autoconv.kernels import space
from autoconv.kernels.bindings import Scalar
from autoconv.kernels.depthwise import depthwise_only
from autoconv.kernels.implicit_gemm import ImplicitGemm, Meta
from autoconv.kernels.sizes import cdiv, x_strides_of
from autoconv.kernels.tiles import activated
from autoconv.kernels.work import Access, Work, plain, window
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


class DepthwiseBanded(ImplicitGemm):
    """See the module's docstring."""

    name = "depthwise_banded"
    jit = depthwise_banded_kernel
    tiles = ("BLOCK_P", "BLOCK_Q", "BLOCK_J")
    raster = (("l", "co", "n"),)

    def refusal(self, problem: Problem) -> str | None:
        if problem.K < LEAST_TAPS:
            return f"it runs K >= {LEAST_TAPS}, not K={problem.K}"
        return depthwise_only(problem)

    def constants(self, problem: Problem) -> dict[str, Scalar]:
        return {"MULTIPLIER": problem.Cout_per_group}

    def tilings(self, problem: Problem, device: Device) -> Iterator[dict[str, int]]:  # noqa: ARG002
        rows = space.tile_sizes(cdiv(problem.L_out, 16), 128)
        columns, deep = space.tile_sizes(problem.L_out, 64), space.depths(problem, 64)
        for block_p, block_q, block_j in product(rows, columns, deep):
            yield {"BLOCK_P": block_p, "BLOCK_Q": block_q, "BLOCK_J": block_j}

    def pipelines(self, work: Work) -> Iterator[tuple[int, int]]:
        return space.pipelines(work.steps, warps=(1, 2, 4))

    def extents(self, problem: Problem, meta: Meta) -> dict[str, int]:
        outputs = meta["BLOCK_P"] * meta["BLOCK_Q"]
        return {"l": cdiv(problem.L_out, outputs), "co": problem.Cout, "n": problem.N}

    def block(self, problem: Problem, meta: Meta) -> tuple[int, int, int]:  # noqa: ARG002
        return meta["BLOCK_P"], meta["BLOCK_Q"], meta["BLOCK_J"]

    def steps_of(self, problem: Problem, meta: Meta) -> int:
        return cdiv(window(problem, meta["BLOCK_Q"]), meta["BLOCK_J"])

    def read_x(self, problem: Problem, meta: Meta) -> Access:
        rows, columns, depth = self.block(problem, meta)
        batch, channel, position = x_strides_of(problem)
        outputs = rows * columns
        return self.access(
            problem,
            meta,
            "x",
            columns=plain(rows, columns * problem.stride * position),
            reduction=plain(depth, position),
            lanes="reduction",
            moves={
                "l": outputs * problem.stride * position,
                "co": channel // problem.Cout_per_group,
                "n": batch,
            },
            elements=rows * depth * self.steps_of(problem, meta),
            distinct=min(window(problem, outputs), problem.L),
            overlap=max(0.0, 1 - outputs * problem.stride / window(problem, outputs)),
        )

    def read_w(self, problem: Problem, meta: Meta) -> Access:
        _, columns, depth = self.block(problem, meta)
        return self.access(
            problem,
            meta,
            "w",
            columns=plain(columns, -problem.stride),  # of the band; exact where the dilation is 1
            reduction=plain(depth, 1),
            lanes="reduction",
            moves={"co": problem.K},
            elements=columns * depth * self.steps_of(problem, meta),
            distinct=problem.K,
        )

    def write_y(self, problem: Problem, meta: Meta) -> Access:
        rows, columns, _ = self.block(problem, meta)
        return self.access(
            problem,
            meta,
            "y",
            columns=plain(columns, 1),
            reduction=plain(rows, columns),
            lanes="columns",
            moves={"l": rows * columns, "co": problem.L_out, "n": problem.Cout * problem.L_out},
            elements=rows * columns,
            distinct=rows * columns,
        )


KERNEL = DepthwiseBanded()
