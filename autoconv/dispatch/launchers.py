"""What computes a call: a kernel's launcher, or torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch.nn import functional

from autoconv.dispatch.signature import Call, Numbers, Padding, Sides
from autoconv.kernels.aten import activations, convolved, even
from autoconv.kernels.sizes import MAX_INT32

Tensors: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]
Empty: TypeAlias = Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], torch.Tensor]


class Launcher(Protocol):
    """Computes all calls of one signature: allocates y, enqueues, returns y."""

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return y, of shape (N, Cout, L_out), or (Cout, L_out) of an x without N."""


ACTIVATIONS = activations()


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
    plain: bool = field(init=False)  # whether one function of torch's, called as it is, computes the call

    def __post_init__(self) -> None:
        """See once what each call would have to see again; there is one for each of a layer not tuned yet."""
        more = isinstance(self.padding, Sides) or self.activation != "none" or self.served is not None
        object.__setattr__(self, "plain", self.op != "conv_weight" and not more)

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Return what torch's own convolution returns, or raise what it raises."""
        padding: Any = self.padding
        stride: Any = self.stride
        if self.plain:
            if self.op == "conv":
                # As the weight lies, torch may leave the channels innermost.
                return functional.conv1d(
                    x, weight, bias, stride, padding, self.dilation, self.groups
                ).contiguous()
            more: Any = self.output_padding, self.groups, self.dilation
            return functional.conv_transpose1d(x, weight, bias, stride, padding, *more).contiguous()
        extra = 0, 0
        if isinstance(padding, Sides):
            padding, extra = even(padding.left, padding.right)
        window = stride, padding, self.dilation, self.groups
        y = convolved(self.op, x, weight, bias, *window, self.output_padding, self.taps, extra=extra)
        y = ACTIVATIONS[self.activation](y)
        if self.served is not None:
            self.served()
        return y


def empty_on(device: torch.device) -> Empty:
    """Return what allocates a tensor on `device` of a shape, strides and dtype, its contents undefined.

    Under torch.use_deterministic_algorithms(True) torch writes NaN over whatever torch.empty and new_empty
    return. Kernels write every element, so that is one more write of y in each call: 20 % of the time of a
    published benchmark. What torch.compile's own code allocates with does not fill, and takes less than half
    the time.
    """
    unfilled: Empty | None = getattr(torch._C._dynamo.guards, f"_empty_strided_{device.type}", None)
    if unfilled is not None:
        return unfilled  # on the current device, which a launcher's own is
    from autoconv.lookup import warn_once  # not above: where all tensors are on the CPU no database is loaded

    switch = "fill_uninitialized_memory"
    if torch.are_deterministic_algorithms_enabled() and getattr(torch.utils.deterministic, switch):
        warn_once(
            "torch.use_deterministic_algorithms(True) fills each output before a kernel writes it, one more "
            "write of y in every call; torch.utils.deterministic.fill_uninitialized_memory = False ends that"
        )
    return lambda shape, strides, dtype: torch.empty_strided(shape, strides, dtype=dtype, device=device)


def by_torch(call: Call) -> torch.Tensor:
    """Return what torch computes for `call`."""
    return ByTorch(*call[3:])(call.x, call.weight, call.bias)


def canonical_inputs(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> Tensors:
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
    """Return a launcher for calls like `call`, from one for the tensors that `canonical_inputs` makes."""
    given = call.x, call.weight, call.bias
    if all(made is tensor for made, tensor in zip(canonical_inputs(*given), given, strict=True)):
        return launch

    def launch_fitted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        y = launch(*canonical_inputs(x, weight, bias))
        return y if x.dim() == 3 else y.squeeze(0)

    return launch_fitted
