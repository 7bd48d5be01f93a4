"""`accelerate`: give the convolutions of an existing model the tuned forward, in place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from autoconv.modules import Conv1d, ConvTranspose1d, ModelNew

_TUNED: dict[type[nn.Module], type[nn.Module]] = {nn.Conv1d: Conv1d, nn.ConvTranspose1d: ConvTranspose1d}


@dataclass(frozen=True)
class Swapped:
    """What `accelerate` did: qualified names of modules, and why others were left alone.

    A module whose weight the model hands to torch.nn.functional, as Mamba does, is swapped to no effect: its
    forward is never called. `autoconv.watched` tells which are called.
    """

    swapped: tuple[str, ...]
    left: tuple[tuple[str, str], ...]  # name, reason

    def __str__(self) -> str:
        """One line for the swapped ones, one for each of the others."""
        lines = [f"{len(self.swapped)} convolutions swapped: {', '.join(self.swapped) or 'none'}"]
        return "\n".join([*lines, *(f"left alone: {name}: {reason}" for name, reason in self.left)])


def accelerate(model: nn.Module) -> Swapped:
    """Give every Conv1d and ConvTranspose1d of `model` the tuned forward, and report on it.

    The modules stay the same objects with the same parameters, buffers, hooks, weight norm and
    parametrizations; only their class changes, to a subclass of what it was. So a state_dict goes either way,
    and references to a module held elsewhere stay good.

    Args:
        model: Changed in place. A module that occurs twice is swapped once.
    """
    swapped, left = [], []
    held = {module.conv1d for module in model.modules() if isinstance(module, ModelNew)}
    for name, module in model.named_modules():
        if module in held:
            continue
        reason = _refusal(module)
        if reason is None:
            cls: Any = type(module)
            module.__class__ = _tuned_class(cls, parametrize.is_parametrized(module))
            swapped.append(name or type(module).__name__)
        elif reason:
            left.append((name or type(module).__name__, reason))
    return Swapped(tuple(swapped), tuple(left))


def _refusal(module: nn.Module) -> str | None:
    """Return why a module keeps its class: "" where it is not a convolution; None where it is swapped."""
    if isinstance(module, (Conv1d, ConvTranspose1d, ModelNew)):
        return "is tuned already"
    if isinstance(module, (nn.LazyConv1d, nn.LazyConvTranspose1d)):
        return "has no shape yet; run the model once first"
    if isinstance(module, nn.ConvTranspose1d) and _overrides(module, nn.ConvTranspose1d, "forward"):
        return f"{type(module).__qualname__} has a forward of its own"
    if isinstance(module, nn.Conv1d) and _overrides(module, nn.Conv1d, "forward"):
        return f"{type(module).__qualname__} has a forward of its own"
    return None if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)) else ""


def _overrides(module: nn.Module, base: type[nn.Module], method: str) -> bool:
    return getattr(type(module), method) is not getattr(base, method)


@cache
def _tuned_class(cls: Any, parametrized: bool) -> type[nn.Module]:
    """Return the subclass of `cls` that has the tuned forward."""
    if cls in _TUNED:
        return _TUNED[cls]
    if parametrized:
        # torch makes such a class for one module, with its parameters as properties, and takes its first
        # base when the parametrization is removed: that base has to be a tuned class.
        of_torch = {key: value for key, value in vars(cls).items() if key not in ("__dict__", "__weakref__")}
        return type(cls.__name__, (_tuned_class(cls.__bases__[0], False),), of_torch)
    base = next(base for base in _TUNED if issubclass(cls, base))
    # Behind `cls` in the order of resolution, so that what it overrides and its super() calls still work.
    made = type(cls.__name__, (cls, _TUNED[base]), {"__module__": cls.__module__, "__reduce_ex__": _reduce})
    made.__qualname__ = cls.__qualname__
    return made


def _reduce(module: nn.Module, _protocol: Any) -> tuple[Any, ...]:
    """Pickle and copy a module of a class made here by the class that it was made from."""
    return _remade, (type(module).__bases__[0],), dict(module.__dict__)


def _remade(cls: Any) -> nn.Module:
    made = _tuned_class(cls, False)
    module: nn.Module = made.__new__(made)
    return module
