"""torch.nn's convolution modules with the tuned forward; torch.jit.script compiles torch's own instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.jit import is_scripting  # type: ignore[attr-defined]  # TorchScript compiles what runs where True
from torch.nn import functional
from torch.nn.modules.module import _has_any_global_hook

from autoconv.ops import conv1d, conv_transpose1d
from autoconv.settings import on_miss


def parameters_of(module: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return weight and bias of a convolution, whatever parametrizations and hooks have made of them.

    Both are found in nn.Module.__getattr__ otherwise, which takes 0.9 us each time under torch 2.13. What is
    no parameter of this module's own is there as ever: a property, or a tensor that a hook has set.
    """
    own, cls = module._parameters, type(module)
    if cls not in _PLAIN and (hasattr(cls, "weight") or hasattr(cls, "bias")):
        return module.weight, module.bias
    weight = own["weight"] if "weight" in own else module.weight  # noqa: SIM401 - get would read both
    return weight, own["bias"] if "bias" in own else module.bias  # noqa: SIM401


def _is_plain(held: Any) -> bool:
    """Return whether a call of the convolution is its forward alone, torch's own, padding with zeros.

    Hooks may compute the weight, as `torch.nn.utils.weight_norm` has it.
    """
    cls = type(held)
    return (
        (cls is nn.Conv1d or _calls_as_torch_does(cls))
        and "forward" not in held.__dict__
        and not (held._forward_pre_hooks or held._forward_hooks)
        and not (held._backward_pre_hooks or held._backward_hooks)
        and not _has_any_global_hook()
        and held.padding_mode == "zeros"
    )


def _calls_as_torch_does(cls: type[nn.Conv1d]) -> bool:
    return cls.forward is nn.Conv1d.forward and cls._conv_forward is nn.Conv1d._conv_forward


def _activated(y: torch.Tensor, activation: str) -> torch.Tensor:
    """Apply `activation`, in TorchScript, which knows no table of functions."""
    if activation == "relu":
        y = functional.relu(y)
    elif activation == "leaky_relu":
        y = functional.leaky_relu(y)
    elif activation == "gelu":
        y = functional.gelu(y)
    elif activation == "silu":
        y = functional.silu(y)
    elif activation == "tanh":
        y = torch.tanh(y)
    return y


class Conv1d(nn.Conv1d):
    """torch.nn.Conv1d with the tuned forward: same arguments, same state_dict, same padding modes.

    Args:
        activation: Applied to the result, fused where no gradient is wanted: "none", "relu", "leaky_relu",
            "gelu", "silu" or "tanh". All other arguments are torch.nn.Conv1d's.
    """

    __constants__ = [*nn.Conv1d.__constants__, "_fused"]  # noqa: RUF012 - of TorchScript, as torch has it
    # Of a module that was swapped, whose __init__ was another: by names that no such module has for its own.
    _fused = "none"  # the activation
    _on_miss: str | None = None  # the policy on misses of this module alone, which `accelerate` may set

    def __init__(self, *args: Any, activation: str = "none", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fused = activation

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the convolution of input, (N, Cin, L) or (Cin, L)."""
        if not is_scripting():
            return self._conv_forward(input, *parameters_of(self))
        return self._conv_forward(input, self.weight, self.bias)

    def _conv_forward(
        self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if not is_scripting():
            padding: Any = self.padding
            if self.padding_mode != "zeros":
                input = functional.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
                padding = 0
            window = self.stride, padding, self.dilation, self.groups
            if self._on_miss is None:
                return conv1d(input, weight, bias, *window, activation=self._fused)
            with on_miss(self._on_miss):
                return conv1d(input, weight, bias, *window, activation=self._fused)
        if self.padding_mode != "zeros":
            input = functional.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            y = functional.conv1d(input, weight, bias, self.stride, 0, self.dilation, self.groups)
        else:
            y = functional.conv1d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return _activated(y, self._fused)


class ConvTranspose1d(nn.ConvTranspose1d):
    """torch.nn.ConvTranspose1d with the tuned forward: same arguments, same state_dict.

    Args:
        activation: As Conv1d's. All other arguments are torch.nn.ConvTranspose1d's.
    """

    if TYPE_CHECKING:  # it takes tuples too; and TorchScript reads what is said of types inside forward
        _output_padding: Any

    __constants__ = [*nn.ConvTranspose1d.__constants__, "_fused"]  # noqa: RUF012
    _fused = "none"
    _on_miss: str | None = None

    def __init__(self, *args: Any, activation: str = "none", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._fused = activation

    def forward(self, input: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        """Return the transposed convolution of input, (N, Cin, L) or (Cin, L)."""
        assert isinstance(self.padding, tuple)
        extra = self._output_padding(
            input, output_size, self.stride, self.padding, self.kernel_size, 1, self.dilation
        )
        if not is_scripting():
            window: Any = self.stride, self.padding, tuple(extra), self.groups, self.dilation
            weight, bias = parameters_of(self)
            if self._on_miss is None:
                return conv_transpose1d(input, weight, bias, *window, activation=self._fused)
            with on_miss(self._on_miss):
                return conv_transpose1d(input, weight, bias, *window, activation=self._fused)
        y = functional.conv_transpose1d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )
        return _activated(y, self._fused)


_PLAIN = frozenset({nn.Conv1d, nn.ConvTranspose1d, Conv1d, ConvTranspose1d})
"""Classes that compute neither weight nor bias; to look for that in one takes as long as to find the two."""


def told(name: str) -> str:
    """Return a module's qualified name as a sentence has it: in an nn.Sequential it is a number.

    >>> told("0"), told("encoder.conv1")
    ('module 0', 'encoder.conv1')
    """
    return f"module {name}" if name.replace(".", "").isdigit() else name


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
        if not is_scripting():
            modules = self._modules
            held: Any = modules["conv1d"] if "conv1d" in modules else self.conv1d  # noqa: SIM401
            if _is_plain(held):
                window = held.stride, held.padding, held.dilation, held.groups
                return conv1d(x, *parameters_of(held), *window)
            return held(x)  # type: ignore[no-any-return]
        y: torch.Tensor = self.conv1d(x)
        return y
