"""`stats`: what served the calls of this process, and which convolutions of a model are called at all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from threading import get_ident
from types import TracebackType
from typing import Any

from torch import nn
from torch.compiler import is_compiling

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
    own, do not. A call counts once, and so do the convolutions of its backward pass. Blocks of `recorded`,
    `interpreted` and `override` inside the block are served by dispatchers of their own, which count apart.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        """Count now; `stats` is how to get one."""
        self._model = model
        self._of: Any = None  # the dispatcher that served when the block began
        self._begun = _NONE
        self._ended: Figures | None = self._now()
        self._hooks = ExitStack()
        self.modules: Mapping[str, ModuleCalls] = {}
        """Calls by the qualified names of the model's convolutions, those that were never called too."""

    def __enter__(self) -> Stats:
        """Count from now on; in each module of the model, too."""
        self._of = serving.current
        self._begun, self._ended = self._now(), None
        if self._model is not None:
            in_progress: _InProgress = defaultdict(list)
            self._hooks.enter_context(serving.watched_by(partial(_Noting, in_progress)))
            found = _convolutions(self._model)
            self.modules = {name: ModuleCalls() for name in found}
            for name, module in found.items():
                calls = _Watched(self.modules[name], in_progress)
                self._hooks.callback(module.register_forward_pre_hook(calls.begin).remove)
                self._hooks.callback(module.register_forward_hook(calls.end, always_call=True).remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count no further."""
        self._hooks.close()
        self._ended = self._now()

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
        return self._ended or self._now()

    def _now(self) -> Figures:
        dispatcher = self._of or serving.current
        return _NONE if dispatcher is None else dispatcher.figures()

    @property
    def _calls(self) -> Counter[Served]:
        return self._end.calls - self._begun.calls


def stats(model: nn.Module | None = None) -> Stats:
    """Return what served the calls of this process so far; used in a with statement, those in the block.

    With a model, the block also shows for each of its tuned convolutions how often its forward was called and
    who computed it: a module whose weight the model hands to torch.nn.functional, as Mamba does, shows 0. For
    a look at a call or two: each convolution of the process takes longer then, and calls inside a compiled or
    scripted part of the model are not seen.

    Args:
        model: Holds ModelNew, Conv1d or ConvTranspose1d, or was given to `accelerate`.
    """
    return Stats(model)


_NONE = Figures(Counter())


def _convolutions(model: nn.Module) -> dict[str, nn.Module]:
    kinds = (Conv1d, ConvTranspose1d, ModelNew)
    return {name or type(one).__name__: one for name, one in model.named_modules() if isinstance(one, kinds)}


@dataclass(eq=False)
class _Call:
    """A call of a module, until it ends."""

    counts: ModuleCalls
    asked: bool = False  # whether it came to the dispatcher

    def note(self, served: Served) -> None:
        self.asked = True
        if served.why:
            self.counts.torch += 1
        else:
            self.counts.kernel += 1


_InProgress = defaultdict[int, list[_Call]]  # by thread, the innermost last


class _Watched:
    """The hooks of one module."""

    def __init__(self, counts: ModuleCalls, in_progress: _InProgress) -> None:
        self._counts, self._in_progress = counts, in_progress

    def begin(self, *_: Any) -> None:
        if not is_compiling():
            self._in_progress[get_ident()].append(_Call(self._counts))

    def end(self, *_: Any) -> None:
        if is_compiling():
            return
        calls = self._in_progress[get_ident()]
        if not calls or calls[-1].counts is not self._counts:  # another hook refused it before it began
            return
        if not calls.pop().asked:
            self._counts.torch += 1


class _Noting:
    """A dispatcher that takes down what it answers to the modules in whose calls it is asked."""

    def __init__(self, in_progress: _InProgress, dispatcher: Any) -> None:
        self.dispatcher, self.machine, self.serves = dispatcher, dispatcher.machine, dispatcher.serves
        self.figures, self.wait = dispatcher.figures, dispatcher.wait
        self._plan, self._in_progress = dispatcher.plan, in_progress
        self.recent: dict[Any, Any] = {}  # so that each call asks for its plan

    def remember(self, *_: Any) -> None:
        pass

    def plan(self, *call: Any) -> Any:
        plan = self._plan(*call)
        for one in self._in_progress[get_ident()]:
            one.note(plan.served)
        return plan
