"""`aten`: torch's own convolution, the config that every kernel has to beat where a GPU can time both.

It has no tiles, no grid and no source of ours, so it is no `Kernel`: nothing compiles or predicts it. A sweep
on a GPU times it last, and where it wins the dispatcher leaves the problem to torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoconv.config import Config
from autoconv.problem import Problem

if TYPE_CHECKING:
    import torch

ATEN = Config("aten", {}, num_warps=1, num_stages=1)


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
    from torch.nn import functional  # not above: looking ATEN up can do without
    from torch.nn.grad import conv1d_weight

    window = problem.stride, 0, problem.dilation, problem.groups
    if problem.op == "conv_transpose":
        whole = functional.conv_transpose1d(
            x, w, None, problem.stride, 0, 0, problem.groups, problem.dilation
        )
        # Padding crops the result; output_padding can reach past it, where the sum is empty.
        reach = problem.pad_left + problem.L_out
        y = functional.pad(whole, (0, max(0, reach - whole.shape[2])))[:, :, problem.pad_left : reach]
        return y if bias is None else y + bias[:, None]
    if problem.pad_left != problem.pad_right:
        x = functional.pad(x, (problem.pad_left, problem.pad_right))
    else:
        window = problem.stride, problem.pad_left, problem.dilation, problem.groups
    if problem.op == "conv_weight":
        gradient: torch.Tensor = conv1d_weight(x, problem.y_shape, w, *window)
        return gradient
    return functional.conv1d(x, w, bias, *window)
