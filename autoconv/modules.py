"""torch.nn's convolution modules with the tuned forward, and the swap of a whole model's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from autoconv.ops import conv1d, conv_transpose1d


class Conv1d(nn.Conv1d):
    """torch.nn.Conv1d with the tuned forward: same arguments, same state_dict, same padding modes.

    Args:
        activation: Applied to the result, fused where no gradient is wanted: "none", "relu", "leaky_relu",
            "gelu", "silu" or "tanh". All other arguments are torch.nn.Conv1d's.
    """

    activation = "none"  # of a module that was swapped, whose __init__ was nn.Conv1d's

    def __init__(self, *args: Any, activation: str = "none", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.activation = activation

    def _conv_forward(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input = functional.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        window = self.stride, padding, self.dilation, self.groups
        return conv1d(input, weight, bias, *window, activation=self.activation)


class ConvTranspose1d(nn.ConvTranspose1d):
    """torch.nn.ConvTranspose1d with the tuned forward: same arguments, same state_dict.

    Args:
        activation: As Conv1d's. All other arguments are torch.nn.ConvTranspose1d's.
    """

    activation = "none"

    def __init__(self, *args: Any, activation: str = "none", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.activation = activation

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """Return the transposed convolution of input, (N, Cin, L) or (Cin, L)."""
        padding: Any = self.padding
        numbers: Any = self.stride, padding, self.kernel_size, 1, self.dilation
        extra = self._output_padding(input, output_size, *numbers)
        return conv_transpose1d(
            input,
            self.weight,
            self.bias,
            self.stride,
            padding,
            tuple(extra),
            self.groups,
            self.dilation,
            activation=self.activation,
        )


class ModelNew(nn.Module):
    """A Conv1d served from the tuning database.

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
