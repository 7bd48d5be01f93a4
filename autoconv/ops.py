"""conv1d and conv_transpose1d with torch.nn.functional's signatures and semantics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch.autograd import forward_ad
from torch.nn import functional
from torch.overrides import handle_torch_function

from autoconv import library, serving
from autoconv.dispatch.launchers import ACTIVATIONS
from autoconv.dispatch.signature import DTYPES, NO_MEMORY, precision_setting, window
from autoconv.errors import ProblemError
from autoconv.problem import ACTIVATIONS as ACTIVATION_NAMES
from autoconv.settings import policy

Numbers: TypeAlias = int | tuple[int, ...]

# What no kernel may be launched on: subclasses, which may hold no memory and mean something of their own.
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_PLAIN_OR_NONE = (type(None), *_PLAIN)

_Tensor = torch.Tensor

_is_compiling = torch.compiler.is_compiling

# Read once: each is asked in every call.
_is_dynamo = torch.compiler.is_dynamo_compiling  # less than _is_compiling, whose other tensors are fakes
_is_tracing = torch._C._is_tracing
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_mode = torch._C._is_torch_function_mode_enabled
_any_autocast = torch._C._is_any_autocast_enabled
_grad_enabled = torch.is_grad_enabled


def conv1d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers | str = 0,
    dilation: Numbers = 1,
    groups: int = 1,
    *,
    activation: str = "none",
) -> torch.Tensor:
    """Convolve, as torch.nn.functional.conv1d does, with the best config that the tuning database knows.

    CUDA tensors of float32, float16 and bfloat16 are served by the tuned kernels, inside torch.compile and
    torch.export as the operator autoconv::convolution; all else by torch: tensor subclasses, tensors without
    elements or memory, and every call under torch.jit.trace, a torch.func transform or forward-mode
    differentiation. A TorchFunctionMode sees this function. float32 products follow
    torch's setting for convolutions (torch.backends.cudnn.conv.fp32_precision), and torch.autocast is heeded.

    Args:
        input: (N, Cin, L) or (Cin, L), any strides.
        weight: (Cout, Cin / groups, K).
        bias: (Cout,) or None.
        stride: Step between windows.
        padding: Zeros on each side, "valid" (none), or "same" (L_out = L; stride 1 only).
        dilation: Step between taps.
        groups: Channel groups.
        activation: Applied to the result: "none", "relu", "leaky_relu", "gelu", "silu" or "tanh", each as
            torch.nn.functional has it by default. Fused into the kernel where no gradient is wanted.

    Returns:
        (N, Cout, L_out) or (Cout, L_out), of the input's dtype; of CUDA tensors contiguous, whoever serves.

    Raises:
        RuntimeError: whatever torch.nn.functional.conv1d raises for the same arguments.
        ProblemError: the activation is unknown.
        MissError: AUTOCONV_ON_MISS is strict, and the database has no entry for this problem.
        SettingError: an AUTOCONV_ variable has an invalid value.
    """
    return _convolved(input, weight, bias, stride, padding, dilation, groups, None, activation)


def conv_transpose1d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
    *,
    activation: str = "none",
) -> torch.Tensor:
    """Convolve, transposed, as torch.nn.functional.conv_transpose1d does; see `conv1d` for what is served.

    Args:
        input: (N, Cin, L) or (Cin, L), any strides.
        weight: (Cin, Cout / groups, K).
        bias: (Cout,) or None.
        stride: Step between the inputs' places in the output.
        padding: Outputs cropped on each side.
        output_padding: Extra output length on the right.
        groups: Channel groups.
        dilation: Step between taps.
        activation: As in `conv1d`.

    Returns:
        As `conv1d`.

    Raises:
        RuntimeError: whatever torch.nn.functional.conv_transpose1d raises for the same arguments.
        ProblemError: the activation is unknown.
        MissError: AUTOCONV_ON_MISS is strict, and the database has no entry for this problem.
        SettingError: an AUTOCONV_ variable has an invalid value.
    """
    return _convolved(input, weight, bias, stride, padding, dilation, groups, output_padding, activation)


def _convolved(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Numbers,
    padding: Numbers | str,
    dilation: Numbers,
    groups: int,
    output_padding: Numbers | None,
    activation: str,
) -> torch.Tensor:
    """Serve a call by its plan, or leave it to what else may; output_padding is None for conv1d.

    First that of the last call that was in its place, if this is the same again: `dispatch.recent` says what
    `alike` compares, and all that it does not is asked here.
    """
    if (
        not _is_dynamo()
        and type(input) is _Tensor
        and (dispatcher := serving.current) is not None
        and (last := dispatcher.recent.get((id(weight), id(bias), input.numel()))) is not None
        and (last.alike(input, weight) if bias is None else last.alike(input, weight, bias))
        and last.stride is stride
        and last.padding is padding
        and last.dilation is dilation
        and last.groups is groups
        and last.output_padding is output_padding
        and last.activation is activation
        and not (last.differentiable and _grad_enabled())
        and not _function_mode()
        and forward_ad._current_level < 0
        and not ((x_at := input.data_ptr()) | (w_at := weight.data_ptr())) & 15
        and x_at > NO_MEMORY < w_at
        and (bias is None or (not (b_at := bias.data_ptr()) & 15 and b_at > NO_MEMORY))
        and (last.precision is None or last.precision == precision_setting())
        and last.policy is policy.name
    ):
        plan = last.plan
        plan.calls += 1
        return plan.launch(input, weight, bias)
    if activation not in ACTIVATION_NAMES:
        raise _unknown(activation)
    if (
        _is_dynamo()
        or type(input) not in _PLAIN
        or type(weight) not in _PLAIN
        or type(bias) not in _PLAIN_OR_NONE
        or _is_tracing()
        or _function_mode()
        or forward_ad._current_level >= 0
        or (dispatcher := serving.current or serving.made_for(input)) is None
        or not dispatcher.serves(input)
    ):
        return _unserved(input, weight, bias, (stride, padding, dilation, groups), output_padding, activation)
    cast = _any_autocast()
    if cast:
        input, weight, bias = _autocast(dispatcher.machine.device_type, input, weight, bias)
    if _dispatch_modes() or (
        _grad_enabled()
        and (input.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad))
    ):
        window_of = stride, padding, dilation, groups
        return _by_operator(input, weight, bias, window_of, output_padding, activation)
    call: tuple[Any, ...] = input, weight, bias, stride, padding, dilation, groups
    if output_padding is not None or activation != "none":
        kind = ("conv", 0) if output_padding is None else ("conv_transpose", output_padding)
        call = *call, *kind, activation
    plan = dispatcher.plan(*call)
    if not cast:  # to tensors that come but once
        dispatcher.remember(plan, call, output_padding, activation)
    return plan.launch(input, weight, bias)


def _unserved(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    window_of: tuple[Any, ...],
    output_padding: Numbers | None,
    activation: str,
) -> torch.Tensor:
    """Leave a call to torch; but show it to a TorchFunctionMode, and to what compiles for CUDA the operator.

    Args:
        input: As the caller gave it, whatever it is, and so `weight` and `bias`.
        weight: See above.
        bias: See above.
        window_of: stride, padding, dilation and groups.
        output_padding: None for conv1d.
        activation: Applied by torch.
    """
    if _is_compiling():
        if input.is_cuda:
            input, weight, bias = _autocast("cuda", input, weight, bias)
            return _by_operator(input, weight, bias, window_of, output_padding, activation)
    elif _function_mode():
        return _by_mode(input, weight, bias, window_of, output_padding, activation)
    return ACTIVATIONS[activation](_by_torch(input, weight, bias, window_of, output_padding))


def _by_mode(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    window_of: tuple[Any, ...],
    output_padding: Numbers | None,
    activation: str,
) -> torch.Tensor:
    """Hand a call of ours to the TorchFunctionMode in force, which may make it again; as `_unserved`."""
    tensors = input, weight, bias
    stride, padding, dilation, groups = window_of
    function: Callable[..., torch.Tensor] = conv1d
    rest: tuple[Any, ...] = window_of
    if output_padding is not None:
        function, rest = conv_transpose1d, (stride, padding, output_padding, groups, dilation)
    y: torch.Tensor = handle_torch_function(function, tensors, *tensors, *rest, activation=activation)
    return y


def _by_operator(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    window_of: tuple[Any, ...],
    output_padding: Numbers | None,
    activation: str,
) -> torch.Tensor:
    """Call the registered operator, which is what differentiates and traces, then activate; as `_unserved`.

    Inside a transform of torch.func, of which no operator here knows, and for what torch alone serves or
    refuses, torch's own is called.
    """
    if not _is_compiling():  # where the operator's fake implementation does, which is not traced
        library.count_flops()  # its counter may have been loaded since
    stride, padding, dilation, groups = window_of
    numbers = None
    whole = not isinstance(groups, bool)  # which torch refuses, and an operator takes for a number
    if whole and (_is_compiling() or not torch._C._are_functorch_transforms_active()):
        numbers = _numbers(input, weight, stride, padding, dilation, output_padding)
    if numbers is None:
        return ACTIVATIONS[activation](_by_torch(input, weight, bias, window_of, output_padding))
    transposed = output_padding is not None
    stride, padding, dilation, output_padding = numbers
    batch = input if input.dim() == 3 else input.unsqueeze(0)
    y = library.differentiable(
        batch, weight, bias, stride, padding, dilation, groups, transposed, output_padding
    )
    return ACTIVATIONS[activation](y if input.dim() == 3 else y.squeeze(0))


def by_operator(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    window_of: tuple[Any, ...],
    activation: str,
) -> torch.Tensor:
    """Compute conv1d by the registered operator wherever the tensors are, torch.autocast heeded."""
    input, weight, bias = _autocast(input.device.type, input, weight, bias)
    return _by_operator(input, weight, bias, window_of, None, activation)


def _by_torch(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    window_of: tuple[Any, ...],
    output_padding: Numbers | None,
) -> torch.Tensor:
    stride, padding, dilation, groups = window_of
    if output_padding is None:
        return functional.conv1d(input, weight, bias, stride, padding, dilation, groups)
    return functional.conv_transpose1d(input, weight, bias, stride, padding, output_padding, groups, dilation)


def _numbers(
    input: torch.Tensor,
    weight: torch.Tensor,
    stride: Numbers,
    padding: Numbers | str,
    dilation: Numbers,
    output_padding: Numbers | None,
) -> tuple[int, list[int], int, int] | None:
    """Return stride, (left, right) padding, dilation, output_padding; None for what torch alone refuses."""
    if input.dim() not in (2, 3) or weight.dim() != 3 or input.dtype not in DTYPES:
        return None
    if not _is_compiling() and 0 in (input.numel(), weight.numel()):
        return None
    if output_padding is not None and isinstance(padding, str):
        return None
    around = window(stride, padding, dilation, weight.shape[2])
    extra = window(0 if output_padding is None else output_padding, 0, 1, 1)
    if around is None or extra is None:
        return None
    step, zeros, spread = around
    sides = list(zeros) if isinstance(zeros, tuple) else [zeros, zeros]
    return step, sides, spread, extra[0]


def _autocast(device_type: str, *tensors: torch.Tensor | None) -> tuple[Any, ...]:
    """Cast what torch.autocast casts where it is in force: floating point, but for float64."""
    if not torch.is_autocast_enabled(device_type):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)
    return tuple(
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    )


def _unknown(activation: str) -> ProblemError:
    remedy = f"give one of {', '.join(ACTIVATION_NAMES)}"
    return ProblemError("activation", activation, "is not a known activation", remedy)
