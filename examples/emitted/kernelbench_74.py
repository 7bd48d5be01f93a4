"""ConvTranspose1d by the Triton kernel `tap_major`, tuned for rtx4090.

Problem  N=32,Cin=32,Cout=64,K=5,L=131072,dilation=3,op=conv_transpose (float32, tf32 products)
Device   rtx4090: 128 SMs, sm_89
Config   BLOCK_CO=64 BLOCK_L=256 BLOCK_R=16 num_warps=4 num_stages=3
Time     1.934 ms (predicted, not measured); the floor, every tensor moved once, is 1.598 ms; bound by dram
Grid     16386 blocks: 1 tile of Cout x 16386 windows of L_out, neighbours along the first. 2 run on an SM at
         once, 256 on the device: 64 waves. Axis x has what can pass 65535, where y and z stop, and what
         shares operands lies side by side, so that the L2 serves it.

`tap_major`: stride 1, the main loop running over all channels of a tap before the next; packed weights.

Within a tap neither the weight nor x needs a division: `dense` works out the channel, the tap and the bounds
of every row of its tile anew in each step, which on an H200 takes longer than the products. A first launch
copies the weight to (K, Cout, Cin), whose rows are then read as widely as Cin allows. The copy is made in
each call, so that it is never stale; it is as large as the weight. A transposed convolution of stride 1 is an
ordinary one with its taps in reverse and other padding, which costs nothing more here.

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
def pack_kernel(
    w_ptr,
    scratch_ptr,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    K: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Copy a weight (COUT, CIN, K) to (K, COUT, CIN); or (CIN, COUT, K), its taps in reverse."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < CIN * COUT * K
    tap, row, channel = i // (CIN * COUT), i // CIN % COUT, i % CIN
    straight, reverse = (row * CIN + channel) * K + tap, (channel * COUT + row) * K + (K - 1 - tap)
    offset = reverse if TRANSPOSED else straight
    packed_ptr = scratch_ptr.to(tl.pointer_type(w_ptr.dtype.element_ty), bitcast=True)
    tl.store(packed_ptr + i, tl.load(w_ptr + offset, mask=mask), mask=mask)


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
def tap_major_kernel(
    x_ptr,
    scratch_ptr,
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
    STEPS: tl.constexpr = (CIN + BLOCK_R - 1) // BLOCK_R  # of one tap
    L = L_units * X_ALIGN
    L_out = L_out_units * Y_ALIGN
    x_channel = x_channel_units * X_ALIGN
    row, sample, col, col_mask = tile_across(COUT, N, L_out, BLOCK_CO, BLOCK_L, Y_ALIGN, INDEX_64)
    row_mask = row < COUT
    first = col - PAD_LEFT
    x_offset = sample * x_batch_units * X_ALIGN + first * x_step
    if SCATTERED:
        x_offset = side_by_side(x_offset)
    x_columns = x_ptr + x_offset
    w_rows = scratch_ptr.to(tl.pointer_type(x_ptr.dtype.element_ty), bitcast=True) + row * CIN

    acc = tl.zeros((BLOCK_CO, BLOCK_L), dtype=tl.float32)
    for step in range(0, K * STEPS):
        tap = step // STEPS
        channel = (step % STEPS) * BLOCK_R + tl.arange(0, BLOCK_R)
        x_mask = inside_sample(first + tap * DILATION, L, PADDED, PADDED_RIGHT)[None, :]
        w_mask = row_mask[:, None]
        if CIN % BLOCK_R != 0:
            x_mask = x_mask & (channel < CIN)[:, None]
            w_mask = w_mask & (channel < CIN)[None, :]
        w = tl.load(w_rows[:, None] + (tap * (COUT * CIN) + channel)[None, :], mask=w_mask, other=0.0)
        if INDEX_64:
            channel = channel.to(tl.int64)
        offset = channel * x_channel + tap * DILATION * x_step
        x = tl.load(x_columns[None, :] + offset[:, None], mask=x_mask, other=0.0)
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    store_across(
        acc, b_ptr, y_ptr, row, sample, col, row_mask, col_mask, L_out, COUT, HAS_BIAS, ACTIVATION, Y_ALIGN
    )


def conv_transpose1d_torch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    padding: int,
    dilation: int,
    output_padding: int,
) -> torch.Tensor:
    """Return the same, computed by torch."""
    return nn.functional.conv_transpose1d(
        x, weight, bias, stride=stride, padding=padding, dilation=dilation, output_padding=output_padding
    )


def conv_transpose1d_triton(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    output_padding: int = 0,
) -> torch.Tensor:
    """Return y (N, Cout, L_out) from x (N, Cin, L), weight (Cin, Cout, K) and bias (Cout,)."""
    # Torch computes what the kernel does not run, and refuses what is wrong.
    if (
        stride < 1
        or padding < 0
        or dilation < 1
        or output_padding < 0
        or output_padding >= max(stride, dilation)
    ):
        return conv_transpose1d_torch(x, weight, bias, stride, padding, dilation, output_padding)
    N, Cin, L = x.shape
    Cin_w, Cout, K = weight.shape
    L_out = (L - 1) * stride - 2 * padding + dilation * (K - 1) + 1 + output_padding
    if (
        x.dtype not in (torch.float32, torch.float16, torch.bfloat16)
        or weight.dtype != x.dtype
        or Cin != Cin_w
        or (bias is not None and (bias.shape != (Cout,) or bias.dtype != x.dtype))
        or 0 in (*x.shape, *weight.shape)
        or L_out < 1
        or stride != 1
        or K == 1
        or max(Cin * (L + 512 * stride + K * dilation), Cout * (L_out + 512 * stride + K * dilation))
        > 2**31 - 1
    ):
        return conv_transpose1d_torch(x, weight, bias, stride, padding, dilation, output_padding)

    x = x.contiguous()
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    x_batch, x_channel, x_step = x.stride()
    # Triton specialises an int on divisibility by 16 alone, so sizes go in units of what divides them.
    y_align = math.gcd(16, L_out)
    x_align = math.gcd(16, L, x_batch, x_channel)
    pad_left = dilation * (K - 1) - padding
    padded_right = L_out - 1 - pad_left + dilation * (K - 1) >= L
    y = torch.empty((N, Cout, L_out), device=x.device, dtype=x.dtype)
    partials = torch.empty(
        triton.cdiv(Cin * Cout * K * x.element_size(), 4), device=x.device, dtype=torch.float32
    )

    grid = lambda META: (triton.cdiv(Cin * Cout * K, META["BLOCK"]),)
    pack_kernel[grid](
        weight,
        partials,
        CIN=Cin,
        COUT=Cout,
        K=K,
        TRANSPOSED=True,
        BLOCK=1024,
        num_warps=4,
        num_stages=2,
        enable_fp_fusion=True,
    )

    grid = lambda META: (triton.cdiv(Cout, META["BLOCK_CO"]) * triton.cdiv(N * L_out, META["BLOCK_L"]),)
    tap_major_kernel[grid](
        x,
        partials,
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
        PAD_LEFT=pad_left,
        PADDED=pad_left > 0,
        PADDED_RIGHT=padded_right,
        DILATION=dilation,
        HAS_BIAS=bias is not None,
        ACTIVATION="none",
        PRECISION="tf32",
        X_ALIGN=x_align,
        Y_ALIGN=y_align,
        INDEX_64=N * (L_out + 512) > 2**31 - 1,
        SCATTERED=y_align <= 1 + 16 * (stride - 1),
        BLOCK_CO=64,
        BLOCK_L=256,
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
        return conv_transpose1d_triton(x, weight, bias, *window)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        needed = ctx.needs_input_grad
        given = [one if one is None else one.detach() for one in ctx.saved_tensors]
        wanted = [given[i].requires_grad_() for i in range(3) if needed[i]]
        with torch.enable_grad():
            y = conv_transpose1d_torch(*given, *ctx.window)
        grads = iter(torch.autograd.grad(y, wanted, grad))
        return tuple(next(grads) if one else None for one in needed)


class ModelNew(nn.Module):
    """torch.nn.ConvTranspose1d, computed by the kernel above; on the CPU by torch."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        output_padding: int = 0,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv1d_transpose = nn.ConvTranspose1d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            output_padding=output_padding,
            bias=bias,
        )
        self.window = (stride, padding, dilation, output_padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not x.is_cuda or x.dim() != 3:
            return self.conv1d_transpose(x)
        given = [x, self.conv1d_transpose.weight, self.conv1d_transpose.bias]
        if torch.is_autocast_enabled("cuda") and x.dtype != torch.float64:
            dtype = torch.get_autocast_dtype("cuda")
            given = [one if one is None else one.to(dtype) for one in given]
        with torch.cuda.device_of(x):  # which need not be the current one
            return Convolution.apply(*given, *self.window)
