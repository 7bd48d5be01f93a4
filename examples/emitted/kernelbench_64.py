"""ConvTranspose1d by the Triton kernel `transposed_rows`, tuned for rtx4090.

Problem  N=64,Cin=128,Cout=128,K=3,L=65536,op=conv_transpose (float32, tf32 products)
Device   rtx4090: 128 SMs, sm_89
Config   BLOCK_CO=64 BLOCK_L=256 BLOCK_R=16 num_warps=4 num_stages=3
Time     6.49 ms (predicted, not measured); the floor, every tensor moved once, is 4.992 ms; bound by tensor
Grid     32770 blocks: 2 tiles of Cout x 16385 windows of L_out x 1 group, neighbours along the first. 2 run
         on an SM at once, 256 on the device: 128 waves. Axis x has what can pass 65535, where y and z stop,
         and what shares operands lies side by side, so that the L2 serves it.

`transposed_rows`: a transposed convolution of dilation 1 as one GEMM with a row for each (channel, phase).

With dilation 1, output o = phase + stride * m - pad_left takes tap phase + stride * t from input m - t,
whatever the phase: one tile of x serves all phases, so x is read once. The phases of a channel are
neighbouring rows of the accumulator, and interleaving them before the store makes runs along L. Columns run
on from one sample into the next, as vocoders upsample many short ones.

The reduction runs over (channel, t) with t fastest, so that the reads of t serve one another in the L1; where
channels are side by side in memory it runs over (t, channel), and x is read along them by 16 bytes.

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
    # The hint is for Triton before 3.7, which lays lanes along rows where no two columns are known to be
    # neighbours. It does no harm where a sample ends, for a thread moves no more than L_out is a multiple of.
    col = tl.max_contiguous(along % L_out, 2 if Y_ALIGN == 1 else Y_ALIGN)
    return sample.to(tl.int64), col, along < (N - n) * L_out


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
def transposed_rows_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    N,
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
    PHASES: tl.constexpr,
    PAD_LEFT: tl.constexpr,
    CHANNEL_FASTEST: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    Y_ALIGN: tl.constexpr,
    INDEX_64: tl.constexpr,
    BLOCK_CO: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    TAPS: tl.constexpr = (K + STRIDE - 1) // STRIDE
    CHUNKS: tl.constexpr = (CIN_G + BLOCK_R - 1) // BLOCK_R  # of one tap
    REDUCTION: tl.constexpr = TAPS * CHUNKS * BLOCK_R if CHANNEL_FASTEST else CIN_G * TAPS
    FULL: tl.constexpr = (CIN_G if CHANNEL_FASTEST else REDUCTION) % BLOCK_R == 0
    ROWS: tl.constexpr = BLOCK_CO * PHASES
    BEFORE: tl.constexpr = PAD_LEFT % STRIDE  # outputs of the first column that lie before 0
    L_out = L_out_units * Y_ALIGN
    group = tl.program_id(1)
    tiles_co = tl.cdiv(COUT_G, BLOCK_CO)
    tile_co = tl.program_id(0) % tiles_co
    tile_l = tl.program_id(0) // tiles_co
    if INDEX_64:
        tile_l = tile_l.to(tl.int64)
        x_channel = tl.cast(x_channel, tl.int64)  # an argument of 1 is a constant, which has no `to`
        L_out = tl.cast(L_out, tl.int64)
    sample, col, col_mask = columns_across(tile_l, N, tl.cdiv(L_out + BEFORE, STRIDE), BLOCK_L, 1)
    row = tl.arange(0, ROWS)
    phase = row % PHASES
    row_channel = tile_co * BLOCK_CO + row // PHASES
    row_mask = (row_channel < COUT_G) & (phase < STRIDE)
    newest = col + PAD_LEFT // STRIDE  # input position of the first tap
    L = tl.where(col_mask, L, 0)
    x_columns = x_ptr + (sample * x_batch + newest * x_step) + group * CIN_G * x_channel
    w_rows = w_ptr + (group * CIN_G * COUT_G + row_channel) * K + phase

    acc = tl.zeros((ROWS, BLOCK_L), dtype=tl.float32)
    for r0 in range(0, REDUCTION, BLOCK_R):
        r = tl.arange(0, BLOCK_R)
        if CHANNEL_FASTEST:
            turn = r0 // (CHUNKS * BLOCK_R) + tl.zeros_like(r)
            channel = r0 // BLOCK_R % CHUNKS * BLOCK_R + r
        else:
            turn = (r0 + r) % TAPS
            channel = (r0 + r) // TAPS
        position = newest[None, :] - turn[:, None]
        x_mask = (position >= 0) & (position < L[None, :])
        w_mask = row_mask[:, None]
        if not FULL:
            x_mask = x_mask & (channel < CIN_G)[:, None]
            w_mask = w_mask & (channel < CIN_G)[None, :]
        if K % STRIDE != 0:
            w_mask = w_mask & (phase[:, None] + (turn * STRIDE)[None, :] < K)
        x = tl.load(
            x_columns[None, :] + (channel * x_channel - turn * x_step)[:, None], mask=x_mask, other=0.0
        )
        w = tl.load(
            w_rows[:, None] + (channel * (COUT_G * K) + turn * STRIDE)[None, :], mask=w_mask, other=0.0
        )
        acc = tl.dot(w, x, acc, input_precision=PRECISION)

    acc = with_bias(acc, b_ptr, group * COUT_G + row_channel, row_mask, HAS_BIAS, ACTIVATION)
    interleaved = tl.permute(tl.reshape(acc, (BLOCK_CO, PHASES, BLOCK_L)), (0, 2, 1))
    channel_out = tile_co * BLOCK_CO + tl.arange(0, BLOCK_CO)
    out = (col * STRIDE - BEFORE)[:, None] + tl.arange(0, PHASES)[None, :]
    out_mask = col_mask[:, None] & (tl.arange(0, PHASES) < STRIDE)[None, :] & (out >= 0) & (out < L_out)
    y_columns = y_ptr + ((sample * COUT + group * COUT_G) * L_out)[:, None] + out
    tl.store(
        y_columns[None, :, :] + (channel_out * L_out)[:, None, None],
        interleaved.to(y_ptr.dtype.element_ty),
        mask=(channel_out < COUT_G)[:, None, None] & out_mask[None, :, :],
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
    N, Cin, L = x.shape
    Cin_w, Cout, K = weight.shape
    L_out = (L - 1) * stride - 2 * padding + dilation * (K - 1) + 1 + output_padding
    # Torch computes what the kernel does not run, and refuses what is wrong.
    if (
        Cin != Cin_w
        or (bias is not None and bias.shape != (Cout,))
        or 0 in (*x.shape, *weight.shape)
        or L_out < 1
        or dilation != 1
        or triton.next_power_of_2(stride) != 1
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
    y = torch.empty((N, Cout, L_out), device=x.device, dtype=x.dtype)

    grid = lambda META: (
        triton.cdiv(Cout, META["BLOCK_CO"])
        * triton.cdiv(N * triton.cdiv(L_out + padding % stride, stride), META["BLOCK_L"]),
    )
    transposed_rows_kernel[grid](
        x,
        weight,
        bias,
        y,
        N=N,
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
        PHASES=triton.next_power_of_2(stride),
        PAD_LEFT=padding,
        CHANNEL_FASTEST=False,
        HAS_BIAS=bias is not None,
        ACTIVATION="none",
        PRECISION="tf32",
        Y_ALIGN=y_align,
        INDEX_64=N * (L_out + 512) > 2**31 - 1,
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
        with torch.cuda.device_of(x):  # which need not be the current one
            return Convolution.apply(
                x, self.conv1d_transpose.weight, self.conv1d_transpose.bias, *self.window
            )
