"""Conv1d by the Triton kernel `dense`, tuned for rtx4090.

Problem  N=64,Cin=64,Cout=128,K=3,L=224280,stride=3,dilation=4 (float32, tf32 products)
Device   rtx4090: 128 SMs, sm_89
Config   BLOCK_CO=128 BLOCK_L=64 BLOCK_R=16 num_warps=4 num_stages=3
Time     6.907 ms (predicted, not measured); the floor, every tensor moved once, is 6.076 ms; bound by dram
Grid     74758 blocks: 1 tile of Cout x 74758 windows of L_out, neighbours along the first. 4 run on an SM at
         once, 512 on the device: 146 waves. Axis x has what can pass 65535, where y and z stop, and what
         shares operands lies side by side, so that the L2 serves it.

`dense`: an implicit GEMM with rows of Cout by columns of L, any K, stride, dilation and padding.

The reduction runs over (channel, tap) with the tap fastest, which is the memory order of a torch weight
(Cout, Cin, K): the weight tile is then a plain row-major matrix, read with the widest loads and never
repacked, and neighbouring taps of one channel are read by the same load instruction, so L1 serves them.
Columns run on from one sample into the next (`columns_across`), so short samples fill the tiles like long
ones, and its stores run along L.

Written by autoconv 0.1.0 with Triton 3.7.1. It needs torch and Triton alone, and serves every size: what the
kernel does not run, torch does. The tiles were chosen for the problem above, and may not be the best for
another.
"""

import math

import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def columns_across(tile_l, N, L_out, BLOCK_L: tl.constexpr, Y_ALIGN: tl.constexpr):
    """Return the sample of each column, its position in the sample, and whether there is such a column.

    Columns past the last are others of the last sample once more. So they can be read, and need no mask of
    their own in the main loop; they must not be stored.
    """
    start = tile_l * BLOCK_L
    n = start // L_out
    along = start - n * L_out + tl.arange(0, BLOCK_L)
    sample = n + tl.minimum(along // L_out, N - 1 - n)
    # Groups of Y_ALIGN columns are neighbours, for no sample ends inside one.
    col = tl.max_contiguous(along % L_out, Y_ALIGN)
    return sample.to(tl.int64), col, along < (N - n) * L_out


@triton.jit
def tile_across(
    ROWS,
    N,
    L_out,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    Y_ALIGN: tl.constexpr,
    INDEX_64: tl.constexpr,
):
    """Return the rows of this block, then what `columns_across` says; tiles of rows come fastest."""
    tile = tl.program_id(0)
    if INDEX_64:
        tile = tile.to(tl.int64)
    tiles_co = tl.cdiv(ROWS, BLOCK_CO)
    row = tile % tiles_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    sample, col, col_mask = columns_across(tile // tiles_co, N, L_out, BLOCK_L, Y_ALIGN)
    return row, sample, col, col_mask


@triton.jit
def activated(value, ACTIVATION: tl.constexpr):
    """Return the activation of float32 values, as torch.nn.functional defines it; NaN stays NaN."""
    if ACTIVATION == "relu":
        value = tl.where(value < 0, 0.0, value)
    elif ACTIVATION == "leaky_relu":
        value = tl.where(value < 0, value * 0.01, value)
    elif ACTIVATION == "silu":
        value = value * tl.sigmoid(value)
    elif ACTIVATION == "gelu":
        value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    elif ACTIVATION == "tanh":
        # 2 sigmoid(2 v) - 1 cancels near 0; there the series, up to v**7, is exact to float32.
        square = value * value
        series = value * (1 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
        value = tl.where(tl.abs(value) < 0.1, series, 2 * tl.sigmoid(2 * value) - 1)
    return value


@triton.jit
def with_bias(acc, b_ptr, row, row_mask, HAS_BIAS: tl.constexpr, ACTIVATION: tl.constexpr):
    """Return acc (rows, columns) with the bias of its rows added, activated."""
    if HAS_BIAS:
        acc += tl.load(b_ptr + row, mask=row_mask, other=0.0).to(tl.float32)[:, None]
    return activated(acc, ACTIVATION)


@triton.jit
def side_by_side(offset):
    """Return the offsets of columns, for loads and stores whose lanes are to lie along the columns.

    Before 3.7 Triton lays lanes along rows where it knows no two columns to be neighbours in memory, so that
    a warp moves an element of each of 32 rows. Of these offsets it is told that they are neighbours in pairs.
    That need not be true, and does no harm: where no alignment is known, a thread moves one element at a
    time. No such thing can be said of what is equal in pairs, for Triton computes that once a pair.
    """
    return tl.max_contiguous(offset + tl.minimum(tl.program_id(0), 0), 2)  # a hint does not outlive a call


@triton.jit
def store_across(
    acc,
    b_ptr,
    y_ptr,
    row,
    sample,
    col,
    row_mask,
    col_mask,
    L_out,
    COUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    Y_ALIGN: tl.constexpr,
):
    """Write acc, with bias and activation, to channels `row` and to each column, in its sample of y."""
    acc = with_bias(acc, b_ptr, row, row_mask, HAS_BIAS, ACTIVATION)
    offset = sample * COUT * L_out + col
    if Y_ALIGN == 1:
        offset = side_by_side(offset)
    y_columns = y_ptr + offset
    mask = row_mask[:, None] & col_mask[None, :]
    tl.store(y_columns[None, :] + row[:, None] * L_out, acc.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def inside_sample(position, L, PADDED: tl.constexpr, PADDED_RIGHT: tl.constexpr):
    """Return where input positions of whole windows lie inside the sample.

    Without padding that is everywhere, and Triton drops a mask that is true everywhere.
    """
    inside = tl.full(position.shape, True, tl.int1)
    if PADDED_RIGHT:
        inside = position < L
    if PADDED:
        inside = inside & (position >= 0)
    return inside


@triton.jit
def dense_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    N,
    L_units,
    L_out_units,
    x_batch_units,
    x_channel_units,
    x_step,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    K: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    PADDED: tl.constexpr,
    PADDED_RIGHT: tl.constexpr,
    DILATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    X_ALIGN: tl.constexpr,
    Y_ALIGN: tl.constexpr,
    INDEX_64: tl.constexpr,
    SCATTERED: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    REDUCTION: tl.constexpr = CIN * K
    L = L_units * X_ALIGN
    L_out = L_out_units * Y_ALIGN
    x_channel = x_channel_units * X_ALIGN
    row, sample, col, col_mask = tile_across(COUT, N, L_out, BLOCK_CO, BLOCK_L, Y_ALIGN, INDEX_64)
    row_mask = row < COUT
    first = col * STRIDE - PAD_LEFT
    x_offset = sample * x_batch_units * X_ALIGN + first * x_step
    if SCATTERED:
        x_offset = side_by_side(x_offset)
    x_columns = x_ptr + x_offset
    w_rows = w_ptr + row * REDUCTION

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for r0 in range(0, REDUCTION, BLOCK_R):
        r = r0 + tl.arange(0, BLOCK_R)
        channel, shift = r // K, (r % K) * DILATION
        if INDEX_64:
            channel = channel.to(tl.int64)
        x_mask = inside_sample(first[None, :] + shift[:, None], L, PADDED, PADDED_RIGHT)
        w_mask = row_mask[:, None]
        if REDUCTION % BLOCK_R != 0:
            x_mask = x_mask & (r < REDUCTION)[:, None]
            w_mask = w_mask & (r < REDUCTION)[None, :]
        offset = channel * x_channel + shift * x_step
        x = tl.load(x_columns[None, :] + offset[:, None], mask=x_mask, other=0.0)
        w = tl.load(w_rows[:, None] + r[None, :], mask=w_mask, other=0.0)
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    store_across(
        acc, b_ptr, y_ptr, row, sample, col, row_mask, col_mask, L_out, COUT, HAS_BIAS, ACTIVATION, Y_ALIGN
    )


def conv1d_torch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    dilation: int,
) -> torch.Tensor:
    """Return the same, computed by torch."""
    return nn.functional.conv1d(x, weight, bias, stride=stride, dilation=dilation)


def conv1d_triton(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int = 1,
    dilation: int = 1,
) -> torch.Tensor:
    """Return y (N, Cout, L_out) from x (N, Cin, L), weight (Cout, Cin, K) and bias (Cout,)."""
    # Torch computes what the kernel does not run, and refuses what is wrong.
    if stride < 1 or dilation < 1:
        return conv1d_torch(x, weight, bias, stride, dilation)
    N, Cin, L = x.shape
    Cout, Cin_w, K = weight.shape
    L_out = (L - dilation * (K - 1) - 1) // stride + 1
    if (
        x.dtype not in (torch.float32, torch.float16, torch.bfloat16)
        or weight.dtype != x.dtype
        or Cin != Cin_w
        or (bias is not None and (bias.shape != (Cout,) or bias.dtype != x.dtype))
        or 0 in (*x.shape, *weight.shape)
        or L_out < 1
        or max(Cin * (L + 512 * stride + K * dilation), Cout * (L_out + 512 * stride + K * dilation))
        > 2**31 - 1
    ):
        return conv1d_torch(x, weight, bias, stride, dilation)

    x = x.contiguous()
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    x_batch, x_channel, x_step = x.stride()
    # Triton specialises an int on divisibility by 16 alone, so sizes go in units of what divides them.
    y_align = math.gcd(16, L_out)
    x_align = math.gcd(16, L, x_batch, x_channel)
    y = torch.empty((N, Cout, L_out), device=x.device, dtype=x.dtype)

    grid = lambda META: (triton.cdiv(Cout, META["BLOCK_CO"]) * triton.cdiv(N * L_out, META["BLOCK_L"]),)
    dense_kernel[grid](
        x,
        weight,
        bias,
        y,
        N=N,
        L_units=L // x_align,
        L_out_units=L_out // y_align,
        x_batch_units=x_batch // x_align,
        x_channel_units=x_channel // x_align,
        x_step=x_step,
        CIN=Cin,
        COUT=Cout,
        K=K,
        STRIDE=stride,
        PAD_LEFT=0,
        PADDED=False,
        PADDED_RIGHT=(L_out - 1) * stride + (K - 1) * dilation >= L,
        DILATION=dilation,
        HAS_BIAS=bias is not None,
        ACTIVATION="none",
        PRECISION="tf32",
        X_ALIGN=x_align,
        Y_ALIGN=y_align,
        INDEX_64=N * (L_out + 512) > 2**31 - 1,
        SCATTERED=y_align <= 1 + 16 * (stride - 1),
        BLOCK_CO=128,
        BLOCK_L=64,
        BLOCK_R=16,
        num_warps=4,
        num_stages=3,
        enable_fp_fusion=True,
    )
    return y


class Convolution(torch.autograd.Function):
    """The kernel forwards, torch's gradients backwards."""

    @staticmethod
    def forward(ctx, x, weight, bias, *window):
        ctx.save_for_backward(x, weight, bias)
        ctx.window = window
        return conv1d_triton(x, weight, bias, *window)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        needed = ctx.needs_input_grad
        given = [one if one is None else one.detach() for one in ctx.saved_tensors]
        wanted = [given[i].requires_grad_() for i in range(3) if needed[i]]
        with torch.enable_grad():
            y = conv1d_torch(*given, *ctx.window)
        grads = iter(torch.autograd.grad(y, wanted, grad))
        return tuple(next(grads) if one else None for one in needed)


class ModelNew(nn.Module):
    """torch.nn.Conv1d, computed by the kernel above; on the CPU by torch."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv1d = nn.Conv1d(
            in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, bias=bias
        )
        self.window = (stride, dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_cuda or x.dim() != 3:
            return self.conv1d(x)
        given = [x, self.conv1d.weight, self.conv1d.bias]
        if torch.is_autocast_enabled("cuda") and x.dtype != torch.float64:
            dtype = torch.get_autocast_dtype("cuda")
            given = [one if one is None else one.to(dtype) for one in given]
        with torch.cuda.device_of(x):  # which need not be the current one
            return Convolution.apply(*given, *self.window)
