"""conv1d with torch.nn.functional's signature and semantics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from autoconv import settings

if TYPE_CHECKING:
    from autoconv.dispatch.dispatcher import Dispatcher

_dispatcher: Dispatcher | None = None  # of this process; made when the first CUDA tensor arrives


def conv1d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Convolve, as torch.nn.functional.conv1d does, with the best config that the tuning database knows.

    CUDA tensors of float32, float16 and bfloat16 are served by the tuned kernels; all else, and every call
    inside torch.compile, by torch. float32 products follow torch's setting for convolutions
    (torch.backends.cudnn.conv.fp32_precision).

    Args:
        input: (N, Cin, L) or (Cin, L), any strides.
        weight: (Cout, Cin / groups, K).
        bias: (Cout,) or None.
        stride: Step between windows.
        padding: Zeros on each side, "valid" (none), or "same" (L_out = L; stride 1 only).
        dilation: Step between taps.
        groups: Channel groups.

    Returns:
        (N, Cout, L_out) or (Cout, L_out), contiguous, of the input's dtype.

    Raises:
        RuntimeError: whatever torch.nn.functional.conv1d raises for the same arguments.
        MissError: AUTOCONV_ON_MISS is strict, and the database has no entry for this problem.
        SettingError: an AUTOCONV_ variable has a value that is none.
    """
    dispatcher = _dispatcher if _dispatcher is not None else _made_for(input)
    if dispatcher is None or torch.compiler.is_compiling() or not dispatcher.machine.serves(input):
        return functional.conv1d(input, weight, bias, stride, padding, dilation, groups)
    window = _window(stride, padding, dilation, weight)
    if window is None or input.dim() not in (2, 3):
        return functional.conv1d(input, weight, bias, stride, padding, dilation, groups)
    if torch.is_autocast_enabled(input.device.type):
        dtype = torch.get_autocast_dtype(input.device.type)
        input, weight = input.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    batch = input if input.dim() == 3 else input.unsqueeze(0)
    if torch.is_grad_enabled() and _needs_gradient(input, weight, bias):
        y: torch.Tensor = _Conv1d.apply(  # type: ignore[no-untyped-call]
            batch, weight, bias, *window, groups, dispatcher
        )
    else:
        y = dispatcher.conv1d(batch, weight, bias, *window, groups)
    return y if input.dim() == 3 else y.squeeze(0)


@contextmanager
def served_by(dispatcher: Dispatcher) -> Iterator[None]:
    """Have `dispatcher` serve the calls of conv1d during the block, in every thread of the process."""
    global _dispatcher
    before = _dispatcher
    _dispatcher = dispatcher
    try:
        yield
    finally:
        _dispatcher = before


def _made_for(input: torch.Tensor) -> Dispatcher | None:
    global _dispatcher
    if not input.is_cuda:
        return None
    from autoconv.dispatch.dispatcher import Dispatcher
    from autoconv.dispatch.machines import Cuda

    _dispatcher = Dispatcher(Cuda(), settings.load())
    return _dispatcher


def _window(
    stride: int | tuple[int, ...],
    padding: int | tuple[int, ...] | str,
    dilation: int | tuple[int, ...],
    weight: torch.Tensor,
) -> tuple[int, int | tuple[int, int], int] | None:
    """Return stride, padding and dilation as numbers, or None for what torch alone can serve or refuse."""
    step, spread = _one(stride), _one(dilation)
    if step is None or spread is None:
        return None
    if padding == "valid":
        return step, 0, spread
    if padding == "same":
        if step != 1 or weight.dim() != 3:
            return None
        total = spread * (weight.shape[2] - 1)
        left = total // 2  # torch puts the odd zero on the right
        return step, left if total == 2 * left else (left, total - left), spread
    zeros = None if isinstance(padding, str) else _one(padding)
    return None if zeros is None else (step, zeros, spread)


def _one(value: int | tuple[int, ...]) -> int | None:
    if isinstance(value, int):
        return value
    return value[0] if len(value) == 1 and isinstance(value[0], int) else None


def _needs_gradient(*tensors: torch.Tensor | None) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


class _Conv1d(torch.autograd.Function):
    """The tuned forward with ATen's backward."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *rest: Any
    ) -> torch.Tensor:
        stride, padding, dilation, groups, dispatcher = rest
        ctx.save_for_backward(x, weight)
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        ctx.window = stride, padding, dilation, groups
        y: torch.Tensor = dispatcher.conv1d(x, weight, bias, stride, padding, dilation, groups)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.window
        uneven = isinstance(padding, tuple)
        padded = functional.pad(x, padding) if uneven else x
        wanted = [
            ctx.needs_input_grad[0],
            ctx.needs_input_grad[1],
            ctx.bias_sizes is not None and ctx.needs_input_grad[2],
        ]
        to_x, to_weight, to_bias = torch.ops.aten.convolution_backward(
            gradient, padded, weight, ctx.bias_sizes, [stride], [0 if uneven else padding], [dilation],
            False, [0], groups, wanted,
        )  # fmt: skip
        if uneven and to_x is not None:
            to_x = to_x[:, :, padding[0] : to_x.shape[2] - padding[1]]
        return to_x, to_weight, to_bias, None, None, None, None, None
