"""`aten`: torch's own convolution, the config that every kernel has to beat where a GPU can time both.

It has no tiles, no grid and no source of ours, so it is not a `Kernel`: nothing compiles or predicts it. A
sweep on a GPU times it before any candidate, and where it wins the dispatcher leaves the problem to torch. It
is also what computes the reference of a check, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from autoconv.config import Config
from autoconv.problem import Problem

if TYPE_CHECKING:
    import torch

ATEN = Config("aten", {}, num_warps=1, num_stages=1)


@lru_cache(maxsize=1)
def activations() -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Return every activation of a problem by name, as torch computes it."""
    import torch  # not above: looking ATEN up can do without
    from torch.nn import functional

    return {
        "none": lambda y: y,
        "relu": functional.relu,
        "leaky_relu": functional.leaky_relu,
        "gelu": functional.gelu,
        "silu": functional.silu,
        "tanh": torch.tanh,
    }


def convolution(
    problem: Problem, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return the result of `problem`, before its activation, in the dtype of the tensors.

    Args:
        problem: Its shapes and window; its dtype and precision do not matter.
        x: Of shape `problem.x_shape`.
        w: Of shape `problem.w_shape`.
        bias: (Cout,) or None.
    """
    padding, extra = even(problem.pad_left, problem.pad_right)
    window = problem.stride, padding, problem.dilation, problem.groups
    y: torch.Tensor = convolved(
        problem.op, x, w, bias, *window, problem.output_padding, problem.K, extra=extra
    )
    return y


def even(left: int, right: int) -> tuple[int, tuple[int, int]]:
    """Return what both sides have in common, as torch pads them, and what each has beyond it.

    >>> even(3, 4)
    (3, (0, 1))
    """
    both = min(left, right)
    return both, (left - both, right - both)


def convolved(
    op: str,
    x: torch.Tensor,
    w: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    output_padding: Any = 0,
    taps: int = 0,
    *,
    extra: tuple[int, int] = (0, 0),
) -> Any:
    """Return what torch's own convolution returns, a tensor, or raise what it raises.

    Args:
        op: As `Problem` has it.
        x: The input, (N, Cin, L) or (Cin, L).
        w: The weight; for conv_weight the gradient of the output.
        bias: (Cout,) or None.
        stride: As torch takes it, and so the next three.
        padding: See above.
        dilation: See above.
        groups: See above.
        output_padding: As torch takes it; of conv_transpose.
        taps: K; of conv_weight.
        extra: Further zeros before and after x, which torch pads alike; of conv_transpose, further elements
            cropped from the result.
    """
    torch, functional, conv1d_weight = _torchs()
    if op == "conv_transpose":
        y = functional.conv_transpose1d(x, w, bias, stride, padding, output_padding, groups, dilation)
        if any(extra):  # copied: a view may not leave a torch.autograd.Function, as what follows is in place
            left, right = extra
            y = y[..., left : y.shape[-1] - right].clone(memory_format=torch.contiguous_format)
        return y.contiguous()
    if any(extra):
        x = functional.pad(x, extra)
    if op == "conv_weight":
        shape = (w.shape[1], x.shape[1] // groups, taps)
        return conv1d_weight(x, shape, w, stride, padding, dilation, groups)
    return functional.conv1d(x, w, bias, stride, padding, dilation, groups).contiguous()


@lru_cache(maxsize=1)  # a plan that leaves its calls to torch comes by in each of them
def _torchs() -> tuple[Any, Any, Callable[..., torch.Tensor]]:
    import torch
    from torch.nn import functional
    from torch.nn.grad import conv1d_weight

    return torch, functional, conv1d_weight
