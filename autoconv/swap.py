"""`accelerate` gives the convolutions of a model the tuned forward, in place; `restore` takes it back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from autoconv.errors import FieldError
from autoconv.modules import Conv1d, ConvTranspose1d, ModelNew, told
from autoconv.settings import check_policy

_TUNED: dict[type[nn.Module], type[nn.Module]] = {nn.Conv1d: Conv1d, nn.ConvTranspose1d: ConvTranspose1d}
_PLAIN = {tuned: plain for plain, tuned in _TUNED.items()}

_BEFORE = (
    "_swapped_from"  # in a class made from one of torch's for a module; a table would keep both for ever
)

_MARK = (
    "_swapped_in"  # in the __dict__ of a module that `accelerate` changed, in copies and pickles of it too
)


@dataclass(frozen=True)
class Swapped:
    """What `accelerate` did: qualified names of modules, and why others were left alone.

    A module whose weight the model hands to torch.nn.functional, as Mamba does, is swapped to no effect: its
    forward is never called. `autoconv.stats` tells which are called.
    """

    swapped: tuple[str, ...]
    left: tuple[tuple[str, str], ...]  # name, reason

    def __str__(self) -> str:
        """One line for the swapped ones, one for each of the others."""
        lines = [f"{len(self.swapped)} convolutions swapped: {', '.join(map(told, self.swapped)) or 'none'}"]
        return "\n".join([*lines, *(f"left alone: {told(name)}: {reason}" for name, reason in self.left)])


def accelerate(
    model: nn.Module, *, only: str | Sequence[str] | None = None, on_miss: str | None = None
) -> Swapped:
    """Give Conv1d and ConvTranspose1d modules of `model` the tuned forward, and report on it.

    The modules stay the same objects with the same parameters, buffers, hooks, weight norm and
    parametrizations; only their class changes, to a subclass of what it was. So a state_dict goes either way,
    and references to a module held elsewhere stay good. `restore` undoes it.

    Args:
        model: Changed in place. A module that occurs twice is swapped once.
        only: Qualified names of the modules to swap, or patterns of them in the manner of a shell, such as
            "encoder.*"; None: all.
        on_miss: What their calls do for a problem without a tuned config, in place of AUTOCONV_ON_MISS; their
            backward passes follow that.

    Raises:
        FieldError: a name or pattern in `only` fits no convolution of the model.
        SettingError: on_miss is no policy.
    """
    policy = None if on_miss is None else check_policy("on_miss", on_miss)
    swapped, left = [], []
    for name, module in _picked(model, only):
        reason = _refusal(module)
        if reason is None:
            cls: Any = type(module)
            tuned = _tuned_parametrized if parametrize.is_parametrized(module) else _tuned_class
            module.__class__ = tuned(cls)
            module.__dict__[_MARK] = True
            if policy is not None:
                module.__dict__["_on_miss"] = policy
            swapped.append(name)
        elif reason:
            left.append((name, reason))
    return Swapped(tuple(swapped), tuple(left))


def restore(model: nn.Module) -> tuple[str, ...]:
    """Give the modules that `accelerate` changed their own class back, and return their qualified names.

    Parameters, buffers and hooks are those of today; parametrizations made or removed meanwhile stay so.

    Args:
        model: Changed in place.
    """
    restored = []
    for name, module in model.named_modules():
        if _MARK in module.__dict__:
            cls: Any = type(module)
            module.__class__ = _plain_class(cls)
            module.__dict__.pop(_MARK)
            module.__dict__.pop("_on_miss", None)
            restored.append(name or type(module).__name__)
    return tuple(restored)


def _picked(model: nn.Module, only: str | Sequence[str] | None) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that `only` names, by their qualified names, but for those that a ModelNew holds."""
    held = {module.conv1d for module in model.modules() if isinstance(module, ModelNew)}
    named = {
        name or type(module).__name__: module
        for name, module in model.named_modules()
        if module not in held and _refusal(module) != ""
    }
    patterns = ["*"] if only is None else [only] if isinstance(only, str) else list(only)
    for pattern in patterns:
        if only is not None and not any(fnmatchcase(name, pattern) for name in named):
            known = ", ".join(list(named)[:3]) or "none"
            reason, remedy = "fits no convolution of the model", f"give names or patterns of such as {known}"
            raise FieldError("accelerate", "only", pattern, reason, remedy)
    for name, module in named.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            yield name, module


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
def _tuned_class(cls: Any) -> type[nn.Module]:
    """Return the subclass of `cls` that has the tuned forward."""
    if cls in _TUNED:
        return _TUNED[cls]
    base = next(base for base in _TUNED if issubclass(cls, base))
    # Behind `cls` in the order of resolution, so that what it overrides and its super() calls still work.
    body = {"__module__": cls.__module__, "__reduce_ex__": _reduce}
    made = type(cls.__name__, (cls, _TUNED[base]), body)
    made.__qualname__ = cls.__qualname__
    _PLAIN[made] = cls
    return made


def _tuned_parametrized(cls: Any) -> type[nn.Module]:
    """Return a class with the tuned forward like `cls`, which torch made for one module and changes later."""
    made = _rebased(cls, _tuned_class(cls.__bases__[0]))
    setattr(made, _BEFORE, cls)
    return made


def _plain_class(cls: Any) -> type[nn.Module]:
    """Return the class that `cls` was made from; one like it if torch made or changed it meanwhile.

    Others derive classes of their own from a module's, as fully sharded data parallelism does: in such a one
    only the base that was made here is changed back.
    """
    if cls in _PLAIN:
        return _PLAIN[cls]
    before: type[nn.Module] | None = vars(cls).get(_BEFORE)
    if before is not None and _properties(before) == _properties(cls):
        return before
    return _rebased(cls, *(_plain_class(base) if _is_made_here(base) else base for base in cls.__bases__))


def _is_made_here(cls: type) -> bool:
    return any(one in _PLAIN or _BEFORE in vars(one) for one in cls.__mro__)


def _properties(cls: type[nn.Module]) -> dict[str, property]:
    """Return the properties of `cls` alone: torch has one for each tensor that is parametrized."""
    return {name: value for name, value in vars(cls).items() if isinstance(value, property)}


def _rebased(cls: Any, *bases: type[nn.Module]) -> type[nn.Module]:
    """Return a class like `cls`, which torch made for one module, with its parameters as properties.

    torch takes its first base when the parametrization is removed.
    """
    not_of_torch = "__dict__", "__weakref__", _BEFORE
    of_torch = {key: value for key, value in vars(cls).items() if key not in not_of_torch}
    return type(cls.__name__, bases, of_torch)


def _reduce(module: nn.Module, _protocol: Any) -> tuple[Any, ...]:
    """Pickle and copy a module of a class made here by the class that it was made from, in that one's way."""
    plain: Any = type(module).__bases__[0]
    chosen = getattr(plain, "__getstate__", None)
    own = chosen is not getattr(object, "__getstate__", None)  # which object has from Python 3.11 on
    return _remade, (plain,), chosen(module) if chosen is not None and own else dict(module.__dict__)


def _remade(cls: Any) -> nn.Module:
    made = _tuned_class(cls)
    module: nn.Module = made.__new__(made)
    return module
