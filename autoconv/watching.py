"""`stats`: what served the calls of this process, and which convolutions of a model are called at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import nn

from autoconv import serving
from autoconv.dispatch.figures import Figures, Served
from autoconv.modules import Conv1d, ConvTranspose1d, ModelNew, told


@dataclass
class ModuleCalls:
    """The calls of one module's forward, by who computed them."""

    kernel: int = 0
    torch: int = 0


class Stats:
    """Counts of this process's convolutions: until it was made or, used as a context manager, in the block.

    Counted is what came to autoconv's dispatcher: CPU tensors, and calls inside a compiled graph of torch's
    own, do not. A call counts once, and so do the convolutions of its backward pass.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        """Count now; `stats` is how to get one."""
        self._model = model
        self._begun = _NONE
        self._ended: Figures | None = _figures()
        self._hooks = ExitStack()
        self.modules: Mapping[str, ModuleCalls] = {}
        """Calls by the qualified names of the model's convolutions, those that were never called too."""

    def __enter__(self) -> Stats:
        """Count from now on; in each module of the model, too."""
        self._begun, self._ended = _figures(), None
        if self._model is not None:
            found = _convolutions(self._model)
            self.modules = {name: ModuleCalls() for name in found}
            for name, module in found.items():
                calls = _Watched(self.modules[name])
                self._hooks.callback(module.register_forward_pre_hook(calls.begin, with_kwargs=True).remove)
                self._hooks.callback(module.register_forward_hook(calls.end, always_call=True).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count no further."""
        self._hooks.close()
        self._ended = _figures()

    @property
    def calls(self) -> dict[tuple[str, str], int]:
        """Calls that a kernel computed, by the grade and the layer of the entry that names it."""
        kernels = Counter[tuple[str, str]]()
        for served, count in self._calls.items():
            if not served.why:
                kernels[served.grade, served.layer] += count
        return dict(kernels)

    @property
    def by_torch(self) -> dict[str, int]:
        """Calls that torch computed, by why it did."""
        reasons = Counter[str]()
        for served, count in self._calls.items():
            if served.why:
                reasons[served.why] += count
        return dict(reasons)

    @property
    def misses(self) -> int:
        """Call signatures that had no tuned config when they were first called."""
        return self._end.misses - self._begun.misses

    @property
    def sweeps(self) -> int:
        """Sweeps that this process began."""
        return self._end.sweeps - self._begun.sweeps

    @property
    def plans(self) -> int:
        """Call signatures whose plan is kept."""
        return self._end.plans

    @property
    def evicted(self) -> int:
        """Plans that had to go for newer ones."""
        return self._end.evicted - self._begun.evicted

    def __str__(self) -> str:
        """One line for the kernels, one for torch, one for the rest, and one for each module of the model."""
        kernels = [f"{count} {grade} of {layer}" for (grade, layer), count in sorted(self.calls.items())]
        reasons = [f"{count} as {why}" for why, count in sorted(self.by_torch.items())]
        lines = [
            f"{sum(self.calls.values())} calls by kernels: {', '.join(kernels) or 'none'}",
            f"{sum(self.by_torch.values())} calls by torch: {', '.join(reasons) or 'none'}",
            f"{self.misses} misses, {self.sweeps} sweeps, {self.plans} plans, {self.evicted} evicted",
        ]
        of_modules = [f"{told(name)}: {one.kernel} by kernels, {one.torch} by torch" for name, one in
                      self.modules.items()]  # fmt: skip
        return "\n".join([*lines, *of_modules])

    @property
    def _end(self) -> Figures:
        return self._ended or _figures()

    @property
    def _calls(self) -> Counter[Served]:
        return self._end.calls - self._begun.calls


def stats(model: nn.Module | None = None) -> Stats:
    """Return what served the calls of this process so far; used in a with statement, those in the block.

    With a model, the block also shows for each of its tuned convolutions how often its forward was called and
    who computed it: a module whose weight the model hands to torch.nn.functional, as Mamba does, shows 0. For
    a look at a call or two: each call of a module takes longer then, and calls inside a compiled or scripted
    part of the model are not seen.

    Args:
        model: Holds ModelNew, Conv1d or ConvTranspose1d, or was given to `accelerate`.
    """
    return Stats(model)


_NONE = Figures(Counter())


def _figures() -> Figures:
    return _NONE if serving.current is None else serving.current.figures()


def _convolutions(model: nn.Module) -> dict[str, nn.Module]:
    kinds = (Conv1d, ConvTranspose1d, ModelNew)
    return {name or type(one).__name__: one for name, one in model.named_modules() if isinstance(one, kinds)}


class _Watched:
    """Stands between one module and the dispatcher that serves it, during each of its calls."""

    def __init__(self, calls: ModuleCalls) -> None:
        self._calls = calls
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
            self._calls.torch += 1

    def note(self, served: Served) -> None:
        self._asked = True
        if served.why:
            self._calls.torch += 1
        else:
            self._calls.kernel += 1


class _Noting:
    """A dispatcher that takes down what it answers."""

    def __init__(self, dispatcher: Any, watched: _Watched) -> None:
        self.machine, self.serves, self.figures = dispatcher.machine, dispatcher.serves, dispatcher.figures
        self._plan, self._watched = dispatcher.plan, watched
        self.recent: dict[Any, Any] = {}  # so that each call asks for its plan

    def remember(self, *_: Any) -> None:
        pass

    def plan(self, *call: Any) -> Any:
        plan = self._plan(*call)
        self._watched.note(plan.served)
        return plan
