"""The convolutions as registered torch operators, with fake implementations and derivatives of any order.

`autoconv::convolution` computes y from x and a weight, `autoconv::convolution_weight` the gradient of a
weight from x and the gradient of y. Each is the other's derivative, or its own with `transposed` turned, so
a backward pass, and the backward of that, are convolutions of the same families: problems of their own, with
entries of their own in the database.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch

from autoconv.dispatch.launchers import by_torch
from autoconv.dispatch.refusals import refuse
from autoconv.dispatch.signature import Call, Sides
from autoconv.serving import serving


def _convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    padding: Sequence[int],
    dilation: int,
    groups: int,
    transposed: bool,
    output_padding: int,
) -> torch.Tensor:
    """Return conv1d, or conv_transpose1d where `transposed`, of x (N, Cin, L); padding is (left, right)."""
    op = "conv_transpose" if transposed else "conv"
    return _computed(Call(x, weight, bias, stride, sides(padding), dilation, groups, op, output_padding))


convolution = torch.library.custom_op("autoconv::convolution", _convolution, mutates_args=())


@convolution.register_fake
def _(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    padding: Sequence[int],
    dilation: int,
    groups: int,
    transposed: bool,
    output_padding: int,
) -> torch.Tensor:
    count_flops()
    op = "conv_transpose" if transposed else "conv"
    refuse(Call(x, weight, bias, stride, 0, dilation, groups, op, output_padding), padding)
    window = stride, padding, dilation, groups
    if transposed:
        length = _stretched(x.shape[2], weight.shape[2], *window) + output_padding
        return x.new_empty((x.shape[0], weight.shape[1] * groups, length))
    # torch gives an x without channels a y without channels.
    outputs = 0 if isinstance(x.shape[1], int) and x.shape[1] == 0 else weight.shape[0]
    return x.new_empty((x.shape[0], outputs, _shrunk(x.shape[2], weight.shape[2], *window)))


def _convolution_weight(
    x: torch.Tensor,
    gradient: torch.Tensor,
    taps: int,
    stride: int,
    padding: Sequence[int],
    dilation: int,
    groups: int,
) -> torch.Tensor:
    """Return the gradient, (Cout, Cin / groups, taps), of the weight of conv1d, from that of its output."""
    window = stride, sides(padding), dilation, groups
    return _computed(Call(x, gradient, None, *window, "conv_weight", taps=taps))


convolution_weight = torch.library.custom_op(
    "autoconv::convolution_weight", _convolution_weight, mutates_args=()
)


@convolution_weight.register_fake
def _(
    x: torch.Tensor,
    gradient: torch.Tensor,
    taps: int,
    stride: int,
    padding: Sequence[int],
    dilation: int,
    groups: int,
) -> torch.Tensor:
    count_flops()
    torch._check(groups > 0, lambda: "non-positive groups is not supported")
    weight = x.new_empty((gradient.shape[1], x.shape[1] // groups, taps))
    refuse(Call(x, weight, None, stride, 0, dilation, groups), padding)
    of_output = (x.shape[0], gradient.shape[1], _shrunk(x.shape[2], taps, stride, padding, dilation, groups))
    torch._check(
        gradient.dim() == 3
        and all(one == other for one, other in zip(gradient.shape, of_output, strict=True)),
        lambda: f"expected the gradient of an output of size {list(of_output)}, got {list(gradient.shape)}",
    )
    return weight


def sides(padding: Sequence[int]) -> int | Sides:
    """Return padding, (left, right), as a call has it."""
    left, right = padding
    return left if left == right else Sides(left, right)


def _computed(call: Call) -> torch.Tensor:
    kind = call.x.device.type
    any_cast = torch._C._is_any_autocast_enabled()
    if any_cast and torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        # It has cast what it casts, forward; of a backward pass it casts nothing, as torch has it.
        torch.set_autocast_enabled(kind, False)
        try:
            return _computed(call)
        finally:
            torch.set_autocast_enabled(kind, True)
    dispatcher = serving(call.x)
    if dispatcher is None:
        return by_torch(call)
    return dispatcher.plan(*call).launch(call.x, call.weight, call.bias)


# --- derivatives --------------------------------------------------------------------------------------


def _save_convolution(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001
    x, weight, bias, *ctx.numbers = inputs
    ctx.save_for_backward(x, weight)
    ctx.bias_shape = None if bias is None else bias.shape


def convolution_backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Return the gradients of x, weight and bias, and a None for each other argument of `convolution`."""
    x, weight = ctx.saved_tensors
    needed = ctx.needs_input_grad
    stride, padding, dilation, groups, transposed, output_padding = ctx.numbers
    # output_padding takes back what padding crops on the right; outputs beyond that have only the bias.
    right = padding[1] - output_padding
    window = stride, [padding[0], max(0, right)], dilation, groups
    to_x = to_weight = to_bias = None
    if _without_elements(x, weight, gradient):
        to_bias = None if ctx.bias_shape is None else gradient.new_zeros(ctx.bias_shape)
        return x.new_zeros(x.shape), weight.new_zeros(weight.shape), to_bias, *[None] * 6
    if ctx.bias_shape is not None and needed[2]:
        to_bias = gradient.sum((0, 2))
    if right < 0:
        gradient = gradient[:, :, :right]
    if needed[0]:
        to_x = _input_gradient(gradient, weight, x.shape[2], *window, transposed=transposed)
    if needed[1]:
        pair = (gradient, x) if transposed else (x, gradient)
        to_weight = _differentiable_weight(*pair, weight.shape[2], *window)
    return to_x, to_weight, to_bias, None, None, None, None, None, None


def _save_weight(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001
    x, gradient, _taps, *ctx.window = inputs
    ctx.save_for_backward(x, gradient)


def _weight_backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, of_output = ctx.saved_tensors
    stride, padding, dilation, groups = ctx.window
    to_x = to_output = None
    if _without_elements(x, gradient, of_output):
        return x.new_zeros(x.shape), of_output.new_zeros(of_output.shape), *[None] * 5
    if ctx.needs_input_grad[0]:
        to_x = _input_gradient(of_output, gradient, x.shape[2], *ctx.window, transposed=False)
    if ctx.needs_input_grad[1]:
        to_output = differentiable(x, gradient, None, stride, padding, dilation, groups, False, 0)
    return to_x, to_output, None, None, None, None, None


def _without_elements(*tensors: torch.Tensor) -> bool:
    """Return whether a gradient is a sum of nothing: zeros. A symbol counts as more than 0."""
    sizes = [tensor.numel() for tensor in tensors]
    return any(isinstance(size, int) and size == 0 for size in sizes)


def _input_gradient(
    gradient: torch.Tensor,
    weight: torch.Tensor,
    length: int,
    stride: int,
    padding: Sequence[int],
    dilation: int,
    groups: int,
    *,
    transposed: bool,
) -> torch.Tensor:
    """Return the gradient of an input of `length`: the convolution of the other kind with the same weight."""
    lacking = 0
    if not transposed:
        # A stride that does not divide leaves inputs at the end that no window reached.
        lacking = length - _stretched(gradient.shape[2], weight.shape[2], stride, padding, dilation, groups)
    y: torch.Tensor = differentiable(
        gradient, weight, None, stride, padding, dilation, groups, not transposed, lacking
    )
    return y


def _shrunk(length: int, taps: int, stride: int, padding: Sequence[int], dilation: int, _groups: int) -> int:
    """Return the output length of a convolution."""
    return (length + padding[0] + padding[1] - dilation * (taps - 1) - 1) // stride + 1


def _stretched(
    length: int, taps: int, stride: int, padding: Sequence[int], dilation: int, _groups: int
) -> int:
    """Return the output length of a transposed convolution without output_padding."""
    return (length - 1) * stride - padding[0] - padding[1] + dilation * (taps - 1) + 1


convolution.register_autograd(convolution_backward, setup_context=_save_convolution)
convolution_weight.register_autograd(_weight_backward, setup_context=_save_weight)


# --- without the operators ----------------------------------------------------------------------------

# What nobody traces or dispatches is differentiated by these: the same, but for what torch.library does in
# each call of an operator with a derivative, which takes the host three times what a launch by Triton does.

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def differentiable(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *numbers: Any) -> Any:
    """Return what the operator `convolution` does for these arguments, and so its derivatives."""
    if _dispatched(x, weight):
        return torch.ops.autoconv.convolution(x, weight, bias, *numbers)
    if not torch.is_grad_enabled():
        return _convolution(x, weight, bias, *numbers)
    return _Convolution.apply(x, weight, bias, *numbers)  # type: ignore[no-untyped-call]


def _differentiable_weight(x: torch.Tensor, gradient: torch.Tensor, *numbers: Any) -> Any:
    if _dispatched(x, gradient):
        return torch.ops.autoconv.convolution_weight(x, gradient, *numbers)
    if not torch.is_grad_enabled():
        return _convolution_weight(x, gradient, *numbers)
    return _ConvolutionWeight.apply(x, gradient, *numbers)  # type: ignore[no-untyped-call]


def _dispatched(x: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether something is to see the operator: a compiler, a mode, a transform, a tensor's class."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or type(x) not in _PLAIN
        or type(other) not in _PLAIN
    )


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> torch.Tensor:
        y = _convolution(*inputs)
        _save_convolution(ctx, inputs, y)
        return y

    backward = staticmethod(convolution_backward)


class _ConvolutionWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> torch.Tensor:
        weight = _convolution_weight(*inputs)
        _save_weight(ctx, inputs, weight)
        return weight

    backward = staticmethod(_weight_backward)


# --- operations counted -------------------------------------------------------------------------------


def count_flops() -> None:
    """Tell torch.utils.flop_counter what the operators compute, once it is loaded: it would load Triton."""
    counter = sys.modules.get("torch.utils.flop_counter")
    if counter is None or torch.ops.autoconv.convolution in counter.flop_registry:
        return

    @counter.register_flop_formula(torch.ops.autoconv.convolution)  # type: ignore[untyped-decorator]
    def _(x: Sequence[int], w: Sequence[int], *rest: Any, out_shape: Sequence[int]) -> int:
        transposed = rest[5]
        return 2 * x[0] * (x if transposed else out_shape)[2] * math.prod(w)

    @counter.register_flop_formula(torch.ops.autoconv.convolution_weight)  # type: ignore[untyped-decorator]
    def _(_x: Sequence[int], gradient: Sequence[int], *_: Any, out_shape: Sequence[int]) -> int:
        return 2 * gradient[0] * gradient[2] * math.prod(out_shape)


count_flops()
