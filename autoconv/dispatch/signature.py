"""From the arguments of a call to its problem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple, TypeAlias

import torch

from autoconv.errors import ProblemError
from autoconv.kernels.sizes import MAX_INT32
from autoconv.problem import DTYPE_BYTES, Problem

Numbers: TypeAlias = int | tuple[int, ...]


NO_MEMORY = 1 << 22
"""No element lies lower: Linux maps no page below 64 KiB, and no executable below 4 MiB. What has no memory,
as the tensors of torch.func.functionalize, has the address 0, and a view of it its offset."""


@dataclass(frozen=True)
class Sides:
    """Padding whose sides differ; no argument of torch can say it, which refuses (1, 2) for one dimension."""

    left: int
    right: int


Padding: TypeAlias = Numbers | str | Sides
Window: TypeAlias = tuple[int, int | tuple[int, int], int]  # stride, padding, dilation

DTYPES = {getattr(torch, name): name for name in DTYPE_BYTES}

precision_setting: Callable[[], object]
"""Reads how torch is set now for float32 convolutions on CUDA; `precision_of` says what the answer means."""

# The documented torch.backends.cudnn.conv.fp32_precision takes 1.7 us to read, three quarters of a hit.
# It calls the first of these two, which exists since torch 2.9; the second is the flag of torch before that.
if hasattr(torch._C, "_get_fp32_precision_getter"):
    precision_setting = partial(torch._C._get_fp32_precision_getter, "cuda", "conv")
else:
    precision_setting = torch._C._get_cudnn_allow_tf32


def precision_of(setting: object) -> str:
    """Return "tf32" or "ieee" for an answer of `precision_setting`."""
    return "tf32" if setting in ("tf32", True) else "ieee"


class Call(NamedTuple):
    """The arguments of one convolution, as the caller gave them."""

    x: torch.Tensor  # (N, Cin, L) or (Cin, L)
    weight: torch.Tensor  # (Cout, Cin / groups, K); what `op` reads in its place, as Problem.w_shape says
    bias: torch.Tensor | None  # (Cout,)
    stride: Numbers
    padding: Padding
    dilation: Numbers
    groups: int
    op: str = "conv"  # as Problem has it
    output_padding: Numbers = 0  # of conv_transpose
    activation: str = "none"
    taps: int = 0  # K, of conv_weight


def plain_number(value: Any) -> Any:
    """Return a list as a tuple, and a whole number of another class, such as NumPy's, as the int it is.

    Anything else comes back itself, True and False included, which torch refuses.

    >>> from enum import IntEnum
    >>> plain_number([IntEnum("Step", "one two").two])
    (2,)
    """
    if isinstance(value, (list, tuple)):
        plain = tuple(map(plain_number, value))
        changed = any(one is not given for one, given in zip(plain, value, strict=True))
        return plain if changed or isinstance(value, list) else value
    exact = isinstance(value, bool) or type(value) is int
    return int(value) if isinstance(value, Integral) and not exact else value


def problem_of(call: Call, precision: str, *, stored: bool = True) -> Problem | None:
    """Return the problem that a call poses, or None where torch alone can serve or refuse it.

    Args:
        call: The call.
        precision: Of float32 products; ignored for the other dtypes.
        stored: Whether its tensors must hold values; fake ones pose the problem of those they stand for.
    """
    x, bias = call.x, call.bias
    if not _consistent(call) or (stored and not _stored(call)):
        return None
    if call.op != "conv" and isinstance(call.padding, str):
        return None
    taps = call.taps if call.op == "conv_weight" else call.weight.shape[2]
    around = window(call.stride, call.padding, call.dilation, taps)
    output_padding = _one(call.output_padding)
    if around is None or output_padding is None:
        return None
    stride, padding, dilation = around
    dtype = DTYPES[x.dtype]
    try:
        problem = Problem(
            N=x.shape[0] if x.dim() == 3 else 1,
            Cin=x.shape[-2],
            Cout=_outputs(call),
            K=taps,
            L=x.shape[-1],
            op=call.op,
            output_padding=output_padding,
            activation=call.activation,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=call.groups,
            bias=bias is not None,
            dtype=dtype,
            precision=precision if dtype == "float32" else "",
            layout="nlc" if x.stride(-2) == 1 and x.stride(-1) > 1 else "ncl",
        )
    except ProblemError:
        return None  # empty or impossible shapes: torch returns an empty tensor or raises its own error
    return problem if problem.w_shape == call.weight.shape else None


def _stored(call: Call) -> bool:
    """Return whether the tensors hold the values that lie in memory."""
    return not any(
        tensor.data_ptr() <= NO_MEMORY or tensor._is_zerotensor() or torch._is_functional_tensor(tensor)
        for tensor in (call.x, call.weight, call.bias)
        if tensor is not None
    )


def _consistent(call: Call) -> bool:
    """Return whether the tensors fit each other."""
    x, weight, bias = call.x, call.weight, call.bias
    for tensor in (x, weight, bias):
        if tensor is None:
            continue
        # A tensor with the negative bit, such as the imaginary part of a conjugate, has its sign elsewhere.
        if tensor.dtype != x.dtype or tensor.device != x.device or tensor.is_neg():
            return False
    if x.dtype not in DTYPES or x.dim() not in (2, 3) or weight.dim() != 3:
        return False
    if type(call.groups) is not int or call.groups < 1:
        return False
    return bias is None or bias.shape == (_outputs(call),)


def _outputs(call: Call) -> int:
    """Return Cout."""
    weight = call.weight.shape
    return {"conv": weight[0], "conv_transpose": weight[1] * call.groups, "conv_weight": weight[1]}[call.op]


def window(strides: Numbers, paddings: Padding, dilations: Numbers, taps: int) -> Window | None:
    """Return stride, padding and dilation as numbers, or None for what torch alone can serve or refuse.

    >>> window(1, "same", (2,), taps=4)
    (1, (3, 3), 2)
    """
    stride, dilation = _one(strides), _one(dilations)
    if stride is None or dilation is None:
        return None
    padding = _padding(paddings, stride, dilation * (taps - 1))
    return None if padding is None else (stride, padding, dilation)


def _padding(given: Padding, stride: int, total: int) -> int | tuple[int, int] | None:
    """Return padding as numbers; `total` is that of both sides where it is "same"."""
    if isinstance(given, Sides):
        return given.left, given.right
    if given == "valid":
        return 0
    if given == "same":
        left = total // 2  # torch puts the odd zero on the right
        return (left, total - left) if stride == 1 else None
    return None if isinstance(given, str) else _one(given)


def _one(value: Numbers) -> int | None:
    """Return a number given as itself or alone in a sequence; None for all else, True and False included.

    None, too, for what 32 bits do not hold: no kernel computes with it, nor any model of one. torch refuses
    it, or wraps around in 64 bits.
    """
    if isinstance(value, (tuple, list)) and len(value) == 1:
        (value,) = value
    return value if type(value) is int and abs(value) <= MAX_INT32 else None
