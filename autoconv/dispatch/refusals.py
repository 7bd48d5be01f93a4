"""What torch refuses, in its own words, of tensors that hold no data: for tracing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autoconv.dispatch.signature import Call


def refuse(call: Call, padding: Sequence[int]) -> None:
    """Check `call`, of op conv or conv_transpose, as ATen's convolution checks one before it computes.

    Sizes may be symbols: what is not known of them when tracing becomes an assertion of the traced program.
    Which tensor's type is at fault is told as by torch's convolution of fake tensors, by dtype.

    Args:
        call: Of an x with three axes; its numbers are ints.
        padding: Left and right.

    Raises:
        RuntimeError: torch refuses it. Checks, order and words are those of check_shape_forward and
            check_input_same_type_as_parameters in aten/src/ATen/native/Convolution.cpp.
    """
    for name, tensor in (("weight", call.weight), ("bias", call.bias)):
        if tensor is not None and tensor.dtype != call.x.dtype:
            kinds = f"Input type ({call.x.dtype}) and {name} type ({tensor.dtype})"
            raise RuntimeError(f"{kinds} should be the same")
    _check_numbers(call, padding)
    _check_channels(call)
    if call.op == "conv":
        _check_length(call, padding)
    size = list(call.x.shape)
    if all(isinstance(one, int) for one in size) and size[2] == 0 < size[0] * size[1]:
        shown = [*size[:2], 1, 0]  # ATen sees two dimensions
        raise RuntimeError(
            f"Only zero batch or zero channel inputs are supported, but got input shape: {shown}"
        )


def _check_numbers(call: Call, padding: Sequence[int]) -> None:
    signs = {
        "non-positive groups": call.groups > 0,
        "negative padding": min(padding) >= 0,
        "negative output_padding": call.output_padding >= 0,  # type: ignore[operator]  # an int, as all here
        "non-positive stride": call.stride > 0,  # type: ignore[operator]
        "non-positive dilation": call.dilation > 0,  # type: ignore[operator]
    }
    for wrong, right in signs.items():
        torch._check(right, lambda wrong=wrong: f"{wrong} is not supported")


def _check_channels(call: Call) -> None:
    x, weight, groups = call.x, call.weight, call.groups
    size, rows = list(weight.shape), weight.shape[0]
    of_size = f"expected weight to be {{}} {groups} at dimension 0, but got weight of size {{}} instead"
    torch._check(rows >= groups, lambda: f"Given groups={groups}, {of_size.format('at least', size)}")
    torch._check(
        rows % groups == 0, lambda: f"Given groups={groups}, {of_size.format('divisible by', [size])}"
    )
    transposed = call.op == "conv_transpose"
    inputs, outputs = (rows, weight.shape[1] * groups) if transposed else (weight.shape[1] * groups, rows)
    given = "transposed=1" if transposed else f"groups={groups}"
    torch._check(
        x.shape[1] == inputs,
        lambda: (
            f"Given {given}, weight of size {size}, expected input{list(x.shape)} to have {inputs} "
            f"channels, but got {x.shape[1]} channels instead"
        ),
    )
    bias, given = call.bias, "transposed=1, " if transposed else ""
    if bias is not None:
        torch._check(
            bias.dim() == 1 and bias.shape[0] == outputs,
            lambda: (
                f"Given {given}weight of size {size}, expected bias to be 1-dimensional with {outputs} "
                f"elements, but got bias of size {list(bias.shape)} instead"
            ),
        )


def _check_length(call: Call, padding: Sequence[int]) -> None:
    padded = call.x.shape[2] + padding[0] + padding[1]
    window = call.dilation * (call.weight.shape[2] - 1) + 1  # type: ignore[operator]
    torch._check(
        padded >= window,
        lambda: (
            f"Calculated padded input size per channel: ({padded}). Kernel size: ({window}). "
            "Kernel size can't be greater than actual input size"
        ),
    )
