"""ConvTranspose1d by the Triton kernel `transposed_joined`, tuned for rtx4090.

Problem  N=16,Cin=32,Cout=64,K=3,L=131072,stride=2,dilation=2,op=conv_transpose,padding=1 (float32, tf32
         products)
Device   rtx4090: 128 SMs, sm_89
Config   BLOCK_CO=64 BLOCK_L=128 BLOCK_R=32 num_warps=8 num_stages=3
Time     1.492 ms (predicted, not measured); the floor, every tensor moved once, is 1.332 ms; bound by dram
Grid     16400 blocks: 1 tile of Cout x 1025 windows of L_out x 16 samples x 1 group, neighbours along the
         first. 2 run on an SM at once, 256 on the device: 64.1 waves. Axis x has what can pass 65535, where y
         and z stop, and what shares operands lies side by side, so that the L2 serves it.

`transposed_joined`: a transposed convolution of stride 2 or 4; a block computes all phases of its outputs.

As in `transposed_phases` each phase of the output has taps of its own, or none. Here a block sums one phase
after the other, keeps them all in registers, and interleaves them before the store: every sector of y is
written whole and at once. A store of every other element costs the L2 as much as one of all, twice over.

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
def tile_of(
    ROWS,
    columns,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    INDEX_64: tl.constexpr,
):
    """Return the (rows, columns, sample) of this block; tiles of rows come fastest.

    So the blocks that share a window of x run side by side. One axis: samples, columns and rows are
    independent, and only axis x reaches past 65535, which both L / BLOCK_L and N can pass.
    """
    tiles_co = tl.cdiv(ROWS, BLOCK_CO)
    tiles_l = tl.cdiv(columns, BLOCK_L)
    tile = tl.program_id(0)
    tile_co = tile % tiles_co
    tile_l = (tile // tiles_co) % tiles_l
    n = (tile // tiles_co // tiles_l).to(tl.int64)
    if INDEX_64:
        tile_l = tile_l.to(tl.int64)
    return tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO), tile_l * BLOCK_L + tl.arange(0, BLOCK_L), n


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
def store_tile(
    acc,
    b_ptr,
    y_ptr,
    n,
    row,
    col,
    row_mask,
    col_mask,
    L_out,
    COUT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    INDEX_64: tl.constexpr,
):
    """Write acc, with bias and activation, to channels `row` and positions `col` of sample n of y."""
    acc = with_bias(acc, b_ptr, row, row_mask, HAS_BIAS, ACTIVATION)
    if INDEX_64:
        row = row.to(tl.int64)
        L_out = L_out.to(tl.int64)
    y_sample = y_ptr + n * COUT * L_out
    mask = row_mask[:, None] & col_mask[None, :]
    tl.store(y_sample + row[:, None] * L_out + col[None, :], acc.to(y_ptr.dtype.element_ty), mask=mask)


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
        or stride != 2
    ):
        return conv_transpose1d_torch(x, weight, bias, stride, padding, dilation, output_padding)

    x = x.contiguous()
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    x_batch, x_channel, x_step = x.stride()
    # Triton specialises an int on divisibility by 16 alone, so sizes go in units of what divides them.
    y_align = math.gcd(16, L_out)
    gcd = math.gcd(stride, dilation)
    inverse = pow(dilation // gcd, -1, stride // gcd)
    # Whether an offset, that of the last tile's overshoot included, passes 32 bits.
    index_64 = (
        max(Cin * (L + 512 * stride + K * dilation), Cout * (L_out + 512 * stride + K * dilation)) > 2**31 - 1
    )
    y = torch.empty((N, Cout, L_out), device=x.device, dtype=x.dtype)

    grid = lambda META: (
        triton.cdiv(Cout, META["BLOCK_CO"])
        * triton.cdiv(triton.cdiv(L_out + padding % stride, stride), META["BLOCK_L"])
        * N,
    )
    transposed_joined_kernel[grid](
        x,
        weight,
        bias,
        y,
        L=L,
        L_out_units=L_out // y_align,
        x_batch=x_batch,
        x_channel=x_channel,
        x_step=x_step,
        CIN_G=Cin,
        COUT_G=Cout,
        COUT=Cout,
        K=K,
        STRIDE=stride,
        PAD_LEFT=padding,
        DILATION=dilation,
        GCD=gcd,
        INVERSE=inverse,
        HAS_BIAS=bias is not None,
        ACTIVATION="none",
        PRECISION="tf32",
        Y_ALIGN=y_align,
        INDEX_64=index_64,
        BLOCK_CO=64,
        BLOCK_L=128,
        BLOCK_R=32,
        num_warps=8,
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
