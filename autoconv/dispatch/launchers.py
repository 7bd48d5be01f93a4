"""What computes a call: a kernel's launcher, or torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch.nn import functional
from torch.nn.grad import conv1d_weight

from autoconv.dispatch.signature import Call, Numbers, Padding, Sides
from autoconv.kernels.sizes import MAX_INT32

Tensors: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


class Launcher(Protocol):
    """Computes all calls of one signature: allocates y, enqueues, returns y."""

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return y, of shape (N, Cout, L_out), or (Cout, L_out) of an x without N."""


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda y: y,
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class ByTorch:
    """Leaves the call to torch, as the caller made it: what no kernel runs, and what torch must refuse."""

    stride: Numbers
    padding: Padding
    dilation: Numbers
    groups: int
    op: str = "conv"
    output_padding: Numbers = 0
    activation: str = "none"
    taps: int = 0
    served: Callable[[], object] | None = None  # told of each call that torch did not refuse

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return what torch's own convolution returns, or raise what it raises."""
        compute = {"conv": self._conv, "conv_transpose": self._transposed, "conv_weight": self._weight}
        y = ACTIVATIONS[self.activation](compute[self.op](x, weight, bias))
        if self.served is not None:
            self.served()
        return y

    def _conv(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        x, padding = _padded(x, self.padding)
        y: torch.Tensor = functional.conv1d(x, weight, bias, self.stride, padding, self.dilation, self.groups)
        return y

    def _weight(self, x: torch.Tensor, gradient: torch.Tensor, _bias: object) -> torch.Tensor:
        x, padding = _padded(x, self.padding)
        shape = (gradient.shape[1], x.shape[1] // self.groups, self.taps)
        window = self.stride, padding, self.dilation, self.groups
        result: torch.Tensor = conv1d_weight(x, shape, gradient, *window)
        return result

    def _transposed(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        padding: Any = self.padding
        crop = 0
        if isinstance(padding, Sides):  # ATen crops both sides alike
            padding, crop = min(padding.left, padding.right), padding.left - padding.right
        y = functional.conv_transpose1d(
            x, weight, bias, self.stride, padding, self.output_padding, self.groups, self.dilation
        )
        return y[..., max(0, crop) : y.shape[-1] + min(0, crop)].contiguous()


def _padded(x: torch.Tensor, padding: Padding) -> tuple[torch.Tensor, Any]:
    """Pad x itself where the sides differ, since ATen pads both alike; return it and what is left to pad."""
    if isinstance(padding, Sides):
        return functional.pad(x, (padding.left, padding.right)), 0
    return x, padding


def by_torch(call: Call) -> torch.Tensor:
    """Return what torch computes for `call`."""
    return ByTorch(*call[3:])(call.x, call.weight, call.bias)


def as_kernels_read(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> Tensors:
    """Return x with three axes, and weight and bias packed: themselves, where they are so already."""
    batch = x if x.dim() == 3 else x.unsqueeze(0)
    if _reaches_far(batch):
        batch = batch.contiguous()
    return batch, weight.contiguous(), None if bias is None else bias.contiguous()


def _reaches_far(x: torch.Tensor) -> bool:
    """Return whether x is a thin view of a tensor with 2**31 elements or more.

    Kernels index with 32 bits where a packed x and y allow it, whatever the strides of this x.
    """
    reach = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return reach > MAX_INT32 and reach >= x.numel()


def fitted(launch: Launcher, call: Call) -> Launcher:
    """Return a launcher for calls like `call`, from one for the tensors that `as_kernels_read` makes."""
    given = call.x, call.weight, call.bias
    if all(made is tensor for made, tensor in zip(as_kernels_read(*given), given, strict=True)):
        return launch

    def launch_fitted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        y = launch(*as_kernels_read(x, weight, bias))
        return y if x.dim() == 3 else y.squeeze(0)

    return launch_fitted
