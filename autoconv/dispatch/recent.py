"""The shortest way from a call to its plan: by what served the last call with this weight and this size of x.

Where a call stood is found by its tensors' identities, and whether it is that call again is then asked of the
tensors themselves: torch compares class, dtype, device, sizes, strides, requires_grad and all that is in
force for them, such as autocast or a transform, in one call of C++, as for the guards of torch.compile. So it
does not matter that an identity may be another tensor's by now, or the same one's after `weight.data = ...`,
`set_` or `swap_tensors`; and nothing here keeps a tensor alive, nor has a weak reference to one, which would
make torch refuse to swap it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch

from autoconv.dispatch.plans import Plan
from autoconv.dispatch.signature import NO_MEMORY
from autoconv.settings import policy

Place: TypeAlias = tuple[int, int, int]  # the identities of weight and bias, and how many elements x has
Alike: TypeAlias = Callable[..., bool]

MOST = 4096
"""Places kept, of some 1 KB each; where more are asked for, all go."""


@dataclass(eq=False, slots=True)
class Recent:
    """A call, in what of it is not in its place.

    Attributes:
        alike: whether the tensors given, x, weight and bias if there is one, are as those of this call.
        plan: what served it.
        stride: the very object; what equals it may not be what torch takes for it, such as 1.0 for 1.
        padding: likewise, and so are the next four.
        dilation: likewise.
        groups: likewise.
        output_padding: likewise; None of conv1d.
        activation: likewise.
        differentiable: whether a tensor wants a gradient.
        precision: how float32 products were asked for; None of the other dtypes.
        policy: on misses, that was in force in the thread.
    """

    alike: Alike
    plan: Plan
    stride: Any
    padding: Any
    dilation: Any
    groups: Any
    output_padding: Any
    activation: str
    differentiable: bool
    precision: object
    policy: str | None


def recent(
    tensors: list[torch.Tensor], plan: Plan, numbers: tuple[Any, ...], precision: object
) -> Recent | None:
    """Return what recognises a call with these tensors; None where it is to be looked up each time.

    Args:
        tensors: x, weight, and bias if there is one.
        plan: Of the call.
        numbers: stride, padding, dilation, groups, output_padding and activation.
        precision: As torch is set.
    """
    compare = comparison()
    if compare is None or not all(map(_constant, numbers)):
        return None
    differentiable = False
    for tensor in tensors:
        address = tensor.data_ptr()
        if address <= NO_MEMORY or address % 16:
            return None
        differentiable = differentiable or tensor.requires_grad
    if len(set(map(id, tensors))) < len(tensors):  # of which the comparison wants none
        return None
    of_float32 = precision if tensors[0].dtype == torch.float32 else None
    alike = compare(*tensors)
    rest = differentiable, of_float32, policy.name
    return Recent(alike, plan, *numbers, *rest)  # type: ignore[call-arg]  # not counted


def _constant(number: Any) -> bool:
    """Return whether an argument cannot change in place: a list may, and what else there is, who knows."""
    if type(number) is tuple:
        return set(map(type, number)) <= {int}
    return number is None or type(number) in (int, str)


@cache
def comparison() -> Callable[..., Alike] | None:
    """Return what makes a comparison with tensors like those given; None where torch has none that can do it.

    It is private to torch, and so tried once a process on all that it has to tell apart.
    """
    try:
        from torch._C._dynamo.guards import TensorGuards

        def compare(*tensors: torch.Tensor) -> Alike:
            guards = TensorGuards(*tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)
            alike: Alike = guards.check
            return alike

        return compare if _discerning(compare) else None
    except (ImportError, AttributeError, TypeError, RuntimeError):
        return None


def _discerning(compare: Callable[..., Alike]) -> bool:
    """Return whether comparisons tell apart what needs another plan, or no plan at all."""
    from torch.utils._python_dispatch import TorchDispatchMode

    # Nothing that is in force for the caller must be so for this.
    with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
        x, other = torch.zeros(2, 2, 2, 4, dtype=torch.float32, device="cpu")
        weight = torch.nn.Parameter(x)
        alike = compare(x, weight)
        others = (
            x[:1], x[:, :, :3], x.transpose(0, 1), x.half(), x.to("meta"), torch._neg_view(x), weight,
            x.detach().requires_grad_(), x.as_subclass(_Subclass), None,
        )  # fmt: skip
        apart = [not alike(one, weight) for one in others]
        with torch.autocast("cpu", torch.bfloat16):
            apart.append(not alike(x, weight))
        with TorchDispatchMode():
            apart.append(not alike(x, weight))

        def transformed(one: torch.Tensor) -> torch.Tensor:
            apart.append(not alike(x, weight))
            return one

        torch.func.vmap(transformed)(x)
        return alike(other, weight) and all(apart)


class _Subclass(torch.Tensor):
    pass
