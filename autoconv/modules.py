"""Modules whose forward is the tuned convolution."""

from __future__ import annotations

import torch
from torch import nn

from autoconv.ops import conv1d


class ModelNew(nn.Module):
    """A bias-free or biased Conv1d served from the tuning database.

    The parameters live in `self.conv1d`, an nn.Conv1d, so a state_dict goes either way between this module
    and any module that holds an nn.Conv1d under that name.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        kernel_size: K.
        stride: Step between windows.
        dilation: Step between taps.
        bias: Whether one number per output channel is added.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.conv1d = nn.Conv1d(
            in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, bias=bias
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the convolution of x, (N, in_channels, L), as (N, out_channels, L_out)."""
        held = self.conv1d
        return conv1d(x, held.weight, held.bias, held.stride, held.padding, held.dilation, held.groups)
