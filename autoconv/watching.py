"""`watched`: which convolutions of a model are served, seen while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from autoconv import serving
from autoconv.dispatch.launchers import ByTorch, Launcher
from autoconv.modules import Conv1d, ConvTranspose1d, ModelNew


class Watched:
    """Who computed the convolutions of a model so far, by the qualified names of their modules."""

    def __init__(self, names: list[str]) -> None:
        self._by: dict[str, set[str]] = {name: set() for name in names}

    def note(self, name: str, by: str) -> None:
        """Take down that a module's convolution was computed by "kernel" or "torch"."""
        self._by[name].add(by)

    @property
    def by_kernel(self) -> tuple[str, ...]:
        """Modules of which at least one call was served by a kernel of the tuning database."""
        return tuple(name for name, by in self._by.items() if "kernel" in by)

    @property
    def by_torch(self) -> tuple[str, ...]:
        """Modules of which at least one call was left to torch."""
        return tuple(name for name, by in self._by.items() if "torch" in by)

    @property
    def uncalled(self) -> tuple[str, ...]:
        """Modules whose forward was not called."""
        return tuple(name for name, by in self._by.items() if not by)

    def __str__(self) -> str:
        """One line for each of the three."""
        told = {
            "served by a kernel": self.by_kernel,
            "left to torch": self.by_torch,
            "not called": self.uncalled,
        }
        return "\n".join(f"{len(names)} {what}: {', '.join(names) or 'none'}" for what, names in told.items())


@contextmanager
def watched(model: nn.Module) -> Iterator[Watched]:
    """Tell which tuned convolutions of `model` are called during the block, and who computes them.

    For a look at a call or two: each call of a module takes longer while it is watched. Calls inside a
    compiled or scripted part of the model are not seen.

    Args:
        model: Holds ModelNew, Conv1d or ConvTranspose1d, or was given to `accelerate`.

    Yields:
        What was seen so far.
    """
    kinds = (Conv1d, ConvTranspose1d, ModelNew)
    modules = {
        name or type(one).__name__: one for name, one in model.named_modules() if isinstance(one, kinds)
    }
    seen = Watched(list(modules))
    with ExitStack() as hooks:
        for name, module in modules.items():
            calls = _Calls(name, seen)
            hooks.callback(module.register_forward_pre_hook(calls.begin, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(calls.end, always_call=True).remove)
        yield seen


class _Calls:
    """Stands between one module and the dispatcher that serves it, during each of its calls."""

    def __init__(self, name: str, seen: Watched) -> None:
        self._name, self._seen = name, seen
        self._open: list[ExitStack] = []  # one for each call in progress
        self._asked = False  # whether the last call came to the dispatcher

    def begin(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._open.append(ExitStack())
        self._asked = False
        tensors = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor)]
        dispatcher = serving.serving(tensors[0]) if tensors else None
        if dispatcher is not None:
            noting: Any = _Noting(dispatcher, self)
            self._open[-1].enter_context(serving.served_by(noting))

    def end(self, *_: Any) -> None:
        self._open.pop().close()
        if not self._asked:
            self._seen.note(self._name, "torch")

    def note(self, launcher: Launcher) -> None:
        self._asked = True
        self._seen.note(self._name, "torch" if isinstance(launcher, ByTorch) else "kernel")


class _Noting:
    """A dispatcher that takes down what it answers."""

    def __init__(self, dispatcher: Any, calls: _Calls) -> None:
        self.machine, self.serves = dispatcher.machine, dispatcher.serves
        self._plan, self._calls = dispatcher.plan, calls

    def plan(self, *call: Any) -> Launcher:
        launcher: Launcher = self._plan(*call)
        self._calls.note(launcher)
        return launcher
