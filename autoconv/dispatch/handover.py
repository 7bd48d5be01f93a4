"""How a launch gets round Triton's JIT: by what the JIT hands over at last, seen once for each kernel bound.

`kernel[grid](...)` binds arguments, specialises them and looks the compiled kernel up anew in every call,
which takes longer than many a kernel runs, and then hands the grid, the stream, what is fixed for that kernel
and the arguments to a launcher in C. No version of Triton documents that, and no two minor ones of 3.3 to 3.7
do it alike. So it is not written down here: the public path is run once, with a grid of no blocks and the
launcher's place taken, and what arrives is understood value by value. Where any is left over, or another
kernel was launched than the one that was compiled for the call, the public path serves.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.compiler import CompiledKernel

from autoconv.compiler.folders import compiling
from autoconv.dispatch.apart import raised_by_a_handler
from autoconv.kernels.base import Launch
from autoconv.lookup import warn_once

_log = logging.getLogger("autoconv")

GRID = (0, 2, 3)
"""Of no blocks, so nothing is launched, should it come to the driver after all; and of no number twice."""

# --- hooks, which profilers set -----------------------------------------------------------------------

_knobs: Any = getattr(triton, "knobs", SimpleNamespace(runtime=CompiledKernel)).runtime
hooks: Any = _knobs if hasattr(_knobs, "launch_enter_hook") else CompiledKernel
"""Where launches find their two hooks: `knobs.runtime` since Triton 3.4, before that CompiledKernel."""


def _quiet(hook: Any) -> tuple[Any, Sequence[Any]]:
    """Return what a hook is while nobody listens, and the list of who does: None, or a chain since 3.5."""
    return (hook, hook.calls) if hasattr(hook, "calls") else (None, ())


no_enter, enter_calls = _quiet(hooks.launch_enter_hook)
no_exit, exit_calls = _quiet(hooks.launch_exit_hook)


def watched() -> bool:
    """Return whether somebody listens to launches; whoever launches asks it, in line."""
    return (
        hooks.launch_enter_hook is not no_enter
        or hooks.launch_exit_hook is not no_exit
        or bool(enter_calls)
        or bool(exit_calls)
    )


# --- what is handed over ------------------------------------------------------------------------------


class NotUnderstoodError(Exception):
    """Triton hands launches over in a way that is not known here."""


@dataclass(frozen=True, eq=False)
class Handover:
    """One launch of a call, but for its stream and its tensors.

    Attributes:
        one: the launch.
        compiled: its kernel. Since Triton 3.9 it unloads its code when nothing refers to it any more.
        call: takes the grid, the stream, `head` and the kernel's arguments; None: the public path serves.
        head: what is fixed.
        packed: whether the arguments are one tuple, as since Triton 3.7.
        addresses: whether tensors are handed over as their addresses, which Triton has to ask them for, and
            then the driver whether they are the device's.
        constants: the kernel's arguments after its tensors.
    """

    one: Launch
    compiled: Any
    call: Callable[..., object] | None
    head: tuple[Any, ...]
    packed: bool
    addresses: bool
    constants: tuple[Any, ...]

    def launch(self, stream: int, tensors: Sequence[Any]) -> None:
        """Launch on `stream`, with `tensors` in the order of the signature."""
        if self.call is None or watched():
            self.public(tensors)
            return
        if self.addresses:
            tensors = [None if one is None else one.data_ptr() for one in tensors]
        given = (*tensors, *self.constants)
        self.call(*self.one.grid, stream, *self.head, *((given,) if self.packed else given))

    def public(self, tensors: Sequence[Any]) -> None:
        """Launch as Triton documents it, hooks and all."""
        self.one.jit[self.one.grid](*tensors, **self.one.keywords)


def handed_over(one: Launch, tensors: Sequence[Any], stream: int, empty: Callable[..., Any]) -> Handover:
    """Compile and load a launch, launching nothing, and return how it is handed over.

    Args:
        one: The launch.
        tensors: In the order of its signature; a dtype stands for what each call allocates, whose address is
            a multiple of 16.
        stream: The one in use.
        empty: Allocates a tensor there of a shape, strides and dtype.
    """
    with compiling():
        compiled = one.jit.warmup(*tensors, grid=one.grid, **one.keywords)
        compiled.run  # noqa: B018 - the kernel is loaded by reading this, and what does not load fails here
        given = [empty((1,), (1,), t) if isinstance(t, torch.dtype) else t for t in tensors]
        try:
            call, head, packed, inner = _understood(one, compiled, given, stream)
        except Exception as error:  # of every type, from the depths of a Triton that nobody here has seen
            if raised_by_a_handler(error):
                raise
            _log.info("%s is launched by Triton's own path: %s", one.jit.fn.__name__, error)
            warn_once(
                f"Triton {triton.__version__} launches kernels in a way not known here, so its own path "
                "serves and takes the host several times as long; autoconv's log says what is not known"
            )
            call, head, packed, inner = None, (), False, False
    return Handover(one, compiled, call, head, packed, inner, one.constants())


def _understood(
    one: Launch, compiled: Any, tensors: Sequence[Any], stream: int
) -> tuple[Callable[..., object], tuple[Any, ...], bool, bool]:
    """Return the fields `call`, `head`, `packed` and `addresses` of a launch's handover.

    Raises:
        NotUnderstoodError: they are not to be found.
    """
    launcher = compiled.run
    inner = "launch" in _fields(launcher)  # so it is one of Triton's own; a stand-in is called itself
    holder, name = (launcher, "launch") if inner else (compiled, _RUN)
    call = getattr(launcher, "launch") if inner else launcher  # noqa: B009 - of a type that is Triton's
    with _in_place_of(holder, name, call) as arrived:
        one.jit[GRID](*tensors, **one.keywords)
    if len(arrived) != 1:
        raise NotUnderstoodError(f"{len(arrived)} launches of the kernel compiled arrived, not one")
    axes, head, packed = _parted(arrived[0], (*tensors, *one.constants()))
    if not _same(axes, (*GRID, stream)):
        raise NotUnderstoodError(f"the grid and the stream are not what it begins with: {axes}")
    return call, _head(head, compiled, launcher), packed, inner


def _fields(launcher: Any) -> dict[str, Any]:
    """Return what a launcher keeps for its kernel, such as the types of the arguments."""
    return getattr(launcher, "__dict__", {})


_RUN = "_run" if hasattr(CompiledKernel, "run") else "run"  # a property since Triton 3.4


@contextmanager
def _in_place_of(holder: Any, name: str, call: Callable[..., object]) -> Iterator[list[tuple[Any, ...]]]:
    """Take down what this thread would launch, without launching it; other threads launch as ever."""
    arrived: list[tuple[Any, ...]] = []
    thread = threading.get_ident()

    def take(*handed: Any) -> object:
        if threading.get_ident() != thread:
            return call(*handed)
        arrived.append(handed)
        return None

    before = vars(holder)[name]
    setattr(holder, name, take)
    try:
        yield arrived
    finally:
        setattr(holder, name, before)


def _parted(handed: tuple[Any, ...], given: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...], bool]:
    """Return the grid and the stream, what is between them and the arguments, and if those are packed."""
    packed = isinstance(handed[-1], tuple) and _same(handed[-1], given)
    if not packed and not _same(handed[-len(given) :], given):
        raise NotUnderstoodError("the arguments are not what it ends with")
    end = -1 if packed else -len(given)
    return handed[:4], handed[4:end], packed


def _head(found: tuple[Any, ...], compiled: Any, launcher: Any) -> tuple[Any, ...]:
    """Return what is handed over before the arguments, of which none may belong to that one call alone."""
    head = list(found)
    place = next((i for i, one in enumerate(head) if one is compiled.packed_metadata), len(head))
    # After the metadata that of this launch, which only hooks look at, and the two hooks.
    if not _same(head[place + 2 : place + 4], [hooks.launch_enter_hook, hooks.launch_exit_hook]):
        raise NotUnderstoodError("the hooks are not where they should be")
    head[place + 1 : place + 4] = [None] * 3
    fixed = [compiled.function, compiled.packed_metadata, None, False, True, *_fields(launcher).values()]
    for one in head:
        if not any(_same([one], [other]) for other in fixed):
            raise NotUnderstoodError(f"it holds {one!r}")
    return tuple(head)


def _same(these: Sequence[Any], those: Sequence[Any]) -> bool:
    """Return whether values are the same objects, or plain ones that are equal."""
    return len(these) == len(those) and all(
        one is other or (type(one) is type(other) and isinstance(one, (int, str, float)) and one == other)
        for one, other in zip(these, those, strict=True)
    )
